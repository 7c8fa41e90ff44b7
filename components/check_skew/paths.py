"""Three ways from an event to model inputs: offline point-in-time join, online store, batch over all events before it.

Each takes the same probes and gives `Inputs` in their order. The first two go through Feast and the transformer's code.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from components.check_skew.probes import Probes
from millrace.errors import NotFound
from millrace.features.days import DayStates, Events
from millrace.features.events import as_utc
from millrace.features.histories import Pool
from millrace.fields import View
from millrace.inputs import States
from millrace.installed import Workload
from millrace.instants import DAY_US, NEVER_US, microseconds
from millrace.lake.feast_home import CONFIGURATION
from millrace.lake.manifest import Manifest
from millrace.lake.states import key_sql
from millrace.lookup import Response, states_of

if TYPE_CHECKING:
    from feast import FeatureStore

INSTANT: Final = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model would read for P probes."""

    features: NDArray[np.float32]
    """[P, F]"""
    history: NDArray[np.float32] | None
    """[P, N, C]; None where the model reads no history."""
    newest_us: NDArray[np.int64] | None
    """[P] time of the newest event in the recent state, before anything is cut off it; NEVER_US for none.

    None where the workload has no recent view."""
    unknown: Mapping[str, NDArray[np.bool_]]
    """View → [P] whether this path has no state of the probe's entity."""


def open_store(repo: Path) -> FeatureStore:
    """The generation that materialise filled; raises NotFound when it is not in this home."""
    if not (repo / CONFIGURATION).is_file():
        raise NotFound(f"no generation of state at {repo}. Run materialize first.")
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo))


def offline(store: FeatureStore, workload: Workload, probes: Probes, history_length: int) -> Inputs:
    """The inputs by Feast's point-in-time join over the batch sources."""
    event_id = workload.schema.EVENT_ID
    columns: dict[str, Any] = {name: pa.array(ids) for name, ids in entity_rows(workload, probes.keys).items()}
    columns |= {event_id: probes.ids, "event_timestamp": probes.events["event_timestamp"].cast(INSTANT)}
    service = store.get_feature_service(workload.features.FEATURE_SERVICE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ibis")  # its calls to DuckDB 2
        joined = store.get_historical_features(entity_df=pa.table(columns).to_pandas(), features=service).to_arrow()
    answer = joined.sort_by(event_id).to_pydict()
    return _from_states(states_of(answer, workload.features.VIEWS), answer, workload, probes, history_length)


def online_store(store: FeatureStore, workload: Workload, probes: Probes, history_length: int) -> Inputs:
    """The inputs by lookup: Feast's rows, and the transformer's own code. What is scored since is not theirs."""
    service = store.get_feature_service(workload.features.FEATURE_SERVICE)
    rows = entity_rows(workload, probes.keys)
    answer = store.get_online_features(features=service, entity_rows=rows).to_dict()
    return _from_states(states_of(answer, workload.features.VIEWS), answer, workload, probes, history_length)


def entity_rows(workload: Workload, keys: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What Feast is asked with: key column → ids, of every entity that has a view."""
    entities = {view.entity: workload.entity(view.entity) for view in workload.features.VIEWS}
    return {entity.key: keys[name] for name, entity in entities.items()}


def _from_states(states: States, answer: Response, workload: Workload, probes: Probes, history_length: int) -> Inputs:
    views = workload.features.VIEWS
    features, history = workload.online.model_inputs(
        probes.requests, states, history_length=history_length, sequence_length=history_length
    )
    unknown = {view.name: np.array([value is None for value in answer[next(iter(view.fields))]]) for view in views}

    newest = None
    if workload.recent is not None:
        recent = states.recent[workload.recent.name]
        newest = np.array([int(state.event_us[-1]) if len(state) else NEVER_US for state in recent])
        unknown[workload.recent.name] = newest == NEVER_US
    return Inputs(features, history, newest, unknown)


def batch(
    connection: duckdb.DuckDBPyConnection,
    workload: Workload,
    snapshot: Manifest,
    feature_set: Manifest,
    probes: Probes,
    as_of: datetime,
) -> Inputs:
    """The inputs by the batch path over everything before `as_of`, with the probes at its end."""
    past = _past_of(connection, workload, snapshot, probes, as_of)
    events = workload.batch.events(pa.concat_tables([past, probes.events]))
    length = int(feature_set.facts["history_length"])
    day = int(probes.requests.event_us[0]) // DAY_US
    today = next(iter(workload.batch.daily(connection, events, length, day, day)))

    of_probes = today.position >= len(past)
    unknown = {view: _unknown(states, events, probes, view, workload) for view, states in today.states.items()}
    if workload.recent is None:
        return Inputs(today.features[of_probes], None, None, unknown)

    history, newest = _histories(connection, workload, workload.recent, feature_set, probes, as_of)
    unknown[workload.recent.name] = newest == NEVER_US
    return Inputs(today.features[of_probes], history, newest, unknown)


def _past_of(
    connection: duckdb.DuckDBPyConnection, workload: Workload, snapshot: Manifest, probes: Probes, as_of: datetime
) -> pa.Table:
    """The snapshot's events before `as_of` that features of the probes may depend on, in the columns of the schema."""
    schema = workload.schema.EVENTS
    columns = ", ".join(schema.names)
    files = [str(path) for path in snapshot.table("events", last_day=as_of.date())]

    connection.register("probes", probes.events)
    query = f"""
        WITH past AS (
            SELECT {columns} FROM read_parquet($files, union_by_name = true) WHERE epoch_us(event_timestamp) < $as_of
        )
        SELECT * FROM past WHERE {workload.batch.RELEVANT}
    """
    past = connection.sql(query, params={"files": files, "as_of": microseconds(as_of)}).to_arrow_table()
    connection.unregister("probes")
    return as_utc(past).cast(schema)


def _unknown(states: DayStates, events: Events, probes: Probes, view: str, workload: Workload) -> NDArray[np.bool_]:
    """[P] whether a refreshed view has no row of the probe's entity by the refresh before it."""
    entity = next(known.entity for known in workload.features.VIEWS if known.name == view)
    refresh = int(probes.requests.event_us[0]) % DAY_US * states.per_day // DAY_US
    known = events.ids[entity].take(pa.array(np.unique(states.entity[states.refresh <= refresh])))
    found = pc.is_in(pa.array(probes.keys[entity]), known)
    return ~np.asarray(found.to_numpy(zero_copy_only=False), bool)


def _histories(
    connection: duckdb.DuckDBPyConnection,
    workload: Workload,
    view: View,
    feature_set: Manifest,
    probes: Probes,
    as_of: datetime,
) -> tuple[NDArray[np.float32] | None, NDArray[np.int64]]:
    """Tensors and newest times of what came before the probes, cut straight out of the feature set's events."""
    length = int(feature_set.facts["history_length"])
    ids = probes.keys[view.entity]
    pool, starts, ends = _pool(connection, workload, view, feature_set, ids, as_of)
    start = np.array([starts.get(one, 0) for one in ids])
    end = np.array([ends.get(one, 0) for one in ids])

    past = pool.before(end, start, length)
    newest = np.where(past.length > 0, past.event_us[:, -1], NEVER_US)
    if not workload.features.HISTORY_CHANNELS:
        return None, newest
    return workload.batch.history(probes.requests.event_us, past, length), newest


def _pool(
    connection: duckdb.DuckDBPyConnection,
    workload: Workload,
    view: View,
    feature_set: Manifest,
    ids: list[str],
    as_of: datetime,
) -> tuple[Pool, dict[str, int], dict[str, int]]:
    """Events before `as_of` of the entities called so, and where those of each begin and end."""
    key = key_sql(workload, view.entity)
    remembered = list(view.fields)[2:]
    query = f"""
        SELECT {", ".join((f"{key} AS entity", "epoch_us(event_timestamp) AS event_us", *remembered))}
        FROM read_parquet($files) WHERE epoch_us(event_timestamp) < $as_of AND {key} IN (SELECT unnest($ids))
        ORDER BY entity, event_us, {workload.schema.EVENT_ID}
    """
    files = [str(path) for path in feature_set.table("events", last_day=as_of.date())]
    values = {"files": files, "as_of": microseconds(as_of), "ids": sorted(set(ids))}
    rows = connection.sql(query, params=values).to_arrow_table()

    names = np.array(rows["entity"].to_pylist(), object)
    first = np.flatnonzero(np.append(True, names[1:] != names[:-1])[: len(names)])
    last = np.append(first[1:], len(names))[: len(first)]
    # A row of padding at the end: there is something to gather, even where nothing happened yet.
    columns = {
        name: np.append(rows[name].to_numpy(), 0).astype(rows[name].type.to_pandas_dtype())
        for name in ("event_us", *remembered)
    }
    pool = Pool(columns.pop("event_us"), columns)
    return pool, dict(zip(names[first], first, strict=True)), dict(zip(names[first], last, strict=True))


def stored(workload: Workload, feature_set: Manifest, probes: Probes, as_of: datetime) -> NDArray[np.float32]:
    """[P, F] features as training reads them; NaN for probes that are not in the feature set."""
    names, event_id = workload.features.FEATURE_NAMES, workload.schema.EVENT_ID
    values = np.full((len(probes), len(names)), np.nan, np.float32)
    files = [str(path) for path in feature_set.table("events", as_of.date(), as_of.date())]
    real = probes.ids.filter(pc.equal(probes.kinds, "real"))
    if files and len(real):
        found = ds.dataset(files).to_table(columns=[event_id, *names], filter=pc.field(event_id).isin(real))
        at = pc.index_in(found[event_id], probes.ids).to_numpy()
        values[at] = np.stack([found[name].to_numpy() for name in names], axis=1)
    return values
