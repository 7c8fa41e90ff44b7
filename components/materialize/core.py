"""Fill the online store with the state of every entity as of an instant.

In: a feature set. Out: an online store (docs/architecture.md) and a filled `<home>/feast/<workload>`, which is a Feast
repository that anyone may open. What the states are: `millrace.lake.states`; Feast itself: `store.py`; the store that
serves, where that is another (Redis): `serving_store.py`; keeping one fresh between runs: `refresh.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
from millrace.lake.feast_home import filled_with, repository
from millrace.lake.manifest import Manifest, content_id
from millrace.lake.provenance import code_of
from millrace.lake.states import recent_states, refreshed_states
from millrace.lake.step import Step
from millrace.observe.progress import log

if TYPE_CHECKING:
    from components.materialize.store import Aside


def materialize(
    feature_set: Manifest,
    lake: Path,
    home: Path,
    as_of: datetime,
    *,
    serving: Path | None = None,
    aside: Aside | None = None,
    threads: int = 2,
    memory_limit_gb: float = 3.0,
) -> Manifest:
    """Events before `as_of` and the last refresh at or before it, as states in files and in the store.

    A store that was filled from the same feature set and instant keeps what has been pushed since; refreshed views that
    were renewed since go back to that instant. Any other is replaced as a whole, in one transaction. `serving` is the
    feature_store.yaml of a store that serves and is not the home's own: it is live, and gets what is newer than what it
    holds. `aside` is kept by who fills often, and may hold the states already. Raises InvalidInput when `as_of` has no
    time zone or lies outside the feature set, AlreadyRunning when another process fills the same store, Unavailable
    when the serving one does not answer.
    """
    from components.materialize import serving_store
    from components.materialize.renewal import put_refreshed
    from components.materialize.store import applied, fill

    _require_inside(feature_set, as_of)
    workload = load(feature_set.workload)
    with exclusive(repository(home, workload.name) / ".lock", f"filling the online store of {home}"):
        manifest = sources_of(feature_set, lake, as_of, threads, memory_limit_gb)
        if filled_with(home, workload.name) != manifest.id or not applied(home, workload):
            fill(home, workload, manifest.fetch(), manifest.id, aside)
            log("online store filled", online_store=manifest.id, **states_in(manifest))
        else:
            put_refreshed(feature_set, manifest, home, as_of, aside=aside)  # where they were renewed since
        if serving is not None:
            serving_store.fill(serving, workload, home, manifest.fetch())
            log("serving store filled", online_store=manifest.id, **states_in(manifest))
    return manifest


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
