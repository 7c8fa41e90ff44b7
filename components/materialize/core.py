"""Fill the online store with the state of every customer and terminal as of an instant.

In: a feature set. Out: an online store (docs/architecture.md) and a filled `<home>/feast`, which is a Feast repository
that anyone may open. What the states are: `fraud.online_sql`; Feast itself: `store.py`; the store that serves,
where that is another (Redis): `serving_store.py`; keeping one fresh between runs: `refresh.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from fraud import online_sql
from fraud.features import last_refresh
from fraud.stream import engine
from millrace.errors import InvalidInput
from millrace.lake.atomic import exclusive, replacing_folder
from millrace.lake.feast_home import filled_with, repository
from millrace.lake.horizon import microseconds, start_of
from millrace.lake.manifest import Manifest, content_id, hash_files
from millrace.lake.provenance import code_of
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
    """Customers' transactions before `as_of` and the last terminal refresh at or before it, in files and in the store.

    A store that was filled from the same feature set and instant keeps what has been pushed since; terminals that were
    renewed since go back to that instant. Any other is replaced as a whole, in one transaction. `serving` is the
    feature_store.yaml of a store that serves and is not the home's own: it is live, and gets what is newer than what it
    holds. `aside` is kept by who fills often, and may hold the states already. Raises InvalidInput when `as_of` has no
    time zone or lies outside the feature set, AlreadyRunning when another process fills the same store, Unavailable
    when the serving one does not answer.
    """
    from components.materialize import serving_store
    from components.materialize.store import applied, fill
    from components.materialize.terminals import put_terminals

    _require_inside(feature_set, as_of)
    with exclusive(repository(home) / ".lock", f"filling the online store of {home}"):
        manifest = sources_of(feature_set, lake, as_of, threads, memory_limit_gb)
        if filled_with(home) != manifest.id or not applied(home):
            fill(home, manifest.folder, manifest.id, aside)
            log("online store filled", online_store=manifest.id, **states_in(manifest))
        else:
            put_terminals(feature_set, manifest, home, as_of, aside=aside)  # where they were renewed since
        if serving is not None:
            serving_store.fill(serving, home, manifest.folder)
            log("serving store filled", online_store=manifest.id, **states_in(manifest))
    return manifest


def sources_of(
    feature_set: Manifest, lake: Path, as_of: datetime, threads: int = 2, memory_limit_gb: float = 3.0
) -> Manifest:
    """The `online_store` artifact of a feature set and an instant: made, or found where it was made before."""
    # What it imports and no more: a new id replaces the store, and what was pushed to it is gone.
    code = code_of(Path(__file__).parent)
    identity = content_id({"feature_set": feature_set.id, "as_of": as_of.astimezone(UTC), "code": code})
    folder = lake / "online" / identity
    if Manifest.find(folder, "online_store") is None:
        _write_sources(feature_set, folder, identity, as_of.astimezone(UTC), threads, memory_limit_gb)
    return Manifest.read(folder, "online_store")


def states_in(manifest: Manifest) -> dict[str, Any]:
    """What a log says of an online store."""
    return {name: manifest.facts[name] for name in ("as_of", "customers", "terminals")}


def _write_sources(
    feature_set: Manifest, folder: Path, identity: str, as_of: datetime, threads: int, memory_limit_gb: float
) -> None:
    """The two Parquet files and the manifest."""
    history_length = int(feature_set.facts["history_length"])
    past = feature_set.table("events", last_day=as_of.date())
    terminals = feature_set.table("terminal_state", as_of.date(), as_of.date())[0]
    with replacing_folder(folder) as aside:
        with engine(threads, memory_limit_gb) as connection:
            customers = online_sql.customer_states(connection, past, microseconds(as_of), history_length)
        _write(customers, aside / "customer_state.parquet")
        states = online_sql.terminal_states(terminals, last_refresh(as_of))
        pq.write_table(states, aside / "terminal_state.parquet")
        facts = {
            "as_of": as_of.isoformat(),
            "customers": len(customers),
            "terminals": len(states),
            "history_length": history_length,
            "feature_service": feature_set.facts["feature_service"],
        }
        parents = {"feature_set": feature_set.id, **feature_set.parents}
        files = hash_files(aside)
        Manifest(
            kind="online_store",
            id=identity,
            workload=feature_set.workload,
            uri=str(folder),
            parents=parents,
            files=files,
            facts=facts,
        ).write(aside / "manifest.json")


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="snappy", use_dictionary=False)


def _require_inside(feature_set: Manifest, as_of: datetime) -> None:
    if as_of.tzinfo is None:
        raise InvalidInput(f"as_of is {as_of}; wanted an instant with its time zone, such as {as_of}+00:00")
    first, last = (datetime.fromisoformat(feature_set.facts[key]).date() for key in ("first_day", "last_day"))
    if not start_of(first) <= as_of <= start_of(last + timedelta(days=1)):
        raise InvalidInput(f"as_of is {as_of.isoformat()}; feature set {feature_set.id} holds {first} … {last}")
