"""Fill a generation of the online store with the state of every entity as of an instant.

In: a feature set. Out: an online store (docs/architecture.md) and a filled generation, which is a Feast repository that
anyone may open, and that nothing reads before a model version names it. What the states are: `millrace.lake.states`;
Feast itself: `store.py`; the store that serves, where that is another (Redis): `serving_store.py`; keeping generations
fresh between runs: `refresh.py`; dropping those that nobody reads: `dropping.py`.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from millrace.errors import InvalidInput
from millrace.features.events import engine
from millrace.fields import View
from millrace.installed import Workload, load
from millrace.instants import last_refresh, microseconds, start_of
from millrace.lake.atomic import exclusive
from millrace.lake.feast_home import Fill, fill_of, repository
from millrace.lake.manifest import Manifest, content_id
from millrace.lake.provenance import code_of
from millrace.lake.states import recent_states, refreshed_states
from millrace.lake.step import Step
from millrace.observe.progress import log
from millrace.registry.model_spec import GENERATION

if TYPE_CHECKING:
    from components.materialize.store import Aside


def materialize(
    feature_set: Manifest,
    lake: Path,
    home: Path,
    as_of: datetime,
    *,
    generation: str = "",
    in_use: Collection[str] = (),
    serving: Path | None = None,
    aside: Aside | None = None,
    threads: int = 2,
    memory_limit_gb: float = 3.0,
) -> Manifest:
    """Events before `as_of` and the last refresh at or before it, as states in files and in a generation.

    Without a name it is a generation aside, named after the states: none of those `in_use`, as it was when it was
    filled. The result's fact `generation` says which. A `generation` that is named is brought to these states where it
    is: filled from the same feature set and instant it keeps what has been pushed since, and refreshed views that were
    renewed since go back to that instant; any other content is replaced as a whole, in one transaction. `serving` is
    the feature_store.yaml of a store that serves and is not the home's own: its generation of that name is filled too.
    `aside` is kept by who fills often, and may hold the states already.

    Raises InvalidInput when `as_of` has no time zone or lies outside the feature set, AlreadyRunning when another
    process fills the same generation, Unavailable when the serving store does not answer.
    """
    from components.materialize import serving_store
    from components.materialize.renewal import put_refreshed
    from components.materialize.store import applied, fill

    _require_inside(feature_set, as_of)
    workload = load(feature_set.workload)
    manifest = sources_of(feature_set, lake, as_of, threads, memory_limit_gb)
    name = generation or _free(manifest.id, in_use)
    repo = repository(home, workload.name, name)
    with exclusive(repo / ".lock", f"filling generation {name} of the online store of {home}"):
        held = fill_of(repo)
        same = held is not None and held.id == manifest.id and applied(repo, workload)
        untouched = held is not None and not held.served and held.renewed_to is None
        if not same or not (generation or untouched):
            fill(repo, workload, manifest.fetch(), content_of(manifest), aside)
            log("online store filled", online_store=manifest.id, generation=name, **states_in(manifest))
        elif generation:
            put_refreshed(feature_set, manifest, repo, as_of, aside=aside)  # where they were renewed since
        if serving is not None:
            serving_store.fill(serving, workload, repo, manifest.fetch(), content_of(manifest))
            log("serving store filled", online_store=manifest.id, generation=name, **states_in(manifest))
    return replace(manifest, facts=manifest.facts | {GENERATION: name})


def content_of(manifest: Manifest) -> Fill:
    """What a generation holds that is filled now with the states of an `online_store`."""
    as_of_us = microseconds(datetime.fromisoformat(manifest.facts["as_of"]))
    return Fill(manifest.id, as_of_us=as_of_us, filled_us=time.time_ns() // 1000)


def _free(identity: str, in_use: Collection[str]) -> str:
    """The first name after an artifact's id that no model version reads from."""
    names = (identity if number == 1 else f"{identity}_{number}" for number in count(1))
    return next(name for name in names if name not in in_use)


def sources_of(
    feature_set: Manifest, lake: Path, as_of: datetime, threads: int = 2, memory_limit_gb: float = 3.0
) -> Manifest:
    """The `online_store` artifact of a feature set and an instant: made, or found where it was made before."""
    workload = load(feature_set.workload)
    as_of = as_of.astimezone(UTC)
    # What it imports and no more: a new id replaces the store as a whole, and what was scored since goes in again.
    code = code_of(Path(__file__).parent, *workload.files("features", "schema"))
    identity = content_id({"feature_set": feature_set.id, "as_of": as_of, "code": code})
    parents = feature_set.as_parents()
    step = Step(kind="online_store", id=identity, workload=workload.name, lake=lake, parents=parents)
    done = step.found()
    if done is not None:
        return done

    with step.writing() as draft, engine(threads, memory_limit_gb) as connection:
        draft.facts |= {
            "as_of": as_of.isoformat(),
            "states": _write_states(draft.folder, connection, feature_set, workload, as_of),
            "history_length": int(feature_set.facts["history_length"]),
            "feature_service": feature_set.facts["feature_service"],
        }
    return step.made()


def states_in(manifest: Manifest) -> dict[str, Any]:
    """What a log says of an online store."""
    return {name: manifest.facts[name] for name in ("as_of", "states")}


def described(manifest: Manifest) -> str:
    """How many states an online store was filled with, for people: `40 recent_state, 60 refreshed_state`."""
    return ", ".join(f"{count} {view}" for view, count in manifest.facts["states"].items())


def _write_states(
    folder: Path, connection: duckdb.DuckDBPyConnection, feature_set: Manifest, workload: Workload, as_of: datetime
) -> dict[str, int]:
    """A Parquet file for each view into `folder`; returns view → how many states."""
    counts: dict[str, int] = {}
    for view in workload.features.VIEWS:
        table = _states(connection, feature_set, workload, view, as_of)
        pq.write_table(table, folder / f"{view.name}.parquet", use_dictionary=not view.recent)
        counts[view.name] = len(table)
    return counts


def _states(
    connection: duckdb.DuckDBPyConnection, feature_set: Manifest, workload: Workload, view: View, as_of: datetime
) -> pa.Table:
    """Every entity of a view as of an instant."""
    if view.recent:
        events = feature_set.table("events", last_day=as_of.date())
        length = int(feature_set.facts["history_length"])
        return recent_states(connection, workload, view, events, microseconds(as_of), length)

    (day,) = feature_set.table(view.name, as_of.date(), as_of.date())
    return refreshed_states(workload, view, day, last_refresh(as_of, workload.features.REFRESHES_PER_DAY))


def _require_inside(feature_set: Manifest, as_of: datetime) -> None:
    if as_of.tzinfo is None:
        raise InvalidInput(f"as_of is {as_of}; wanted an instant with its time zone, such as {as_of}+00:00")
    first, last = (datetime.fromisoformat(feature_set.facts[key]).date() for key in ("first_day", "last_day"))
    if not start_of(first) <= as_of <= start_of(last + timedelta(days=1)):
        raise InvalidInput(f"as_of is {as_of.isoformat()}; feature set {feature_set.id} holds {first} … {last}")
