"""Three ways from a transaction to model inputs: offline point-in-time join, online store, batch over the whole stream.

Each takes the same probes and gives `Inputs` in their order. The first two go through Feast and the transformer's code.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
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

from fraud import batch as days
from fraud import features as f
from fraud import online
from fraud.features import VIEWS
from millrace.errors import NotFound
from millrace.features.days import Events
from millrace.features.events import as_utc
from millrace.inputs import Requests, recent
from millrace.instants import microseconds
from millrace.lake.feast_home import repository
from millrace.lake.manifest import Manifest
from millrace.lookup import states_of

if TYPE_CHECKING:
    from feast import FeatureStore

INSTANT: Final = pa.timestamp("us", tz="UTC")
STREAM: Final = (
    "transaction_id", "event_timestamp", "customer_id", "terminal_id",
    "amount_cents", "is_fraud", "label_timestamp", "terminal_risk",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model would read for P probes."""

    features: NDArray[np.float32]  # [P, F]
    history: NDArray[np.float32]  # [P, N, C]
    newest_us: NDArray[np.int64]
    """[P] time of the newest transaction in the customer's state, before anything is cut off it; NEVER_US for none."""


def open_store(home: Path, workload: str) -> FeatureStore:
    """The Feast store that materialise made; raises NotFound when it has not run in this home."""
    folder = repository(home, workload)
    if not (folder / "feature_store.yaml").is_file():
        raise NotFound(f"no Feast repository at {folder}. Run materialize first.")
    from feast import FeatureStore

    return FeatureStore(repo_path=str(folder))


def offline(store: FeatureStore, probes: pa.Table, history_length: int) -> Inputs:
    """By Feast's point-in-time join over the batch sources."""
    entities = probes.select(["customer_id", "terminal_id", "transaction_id"])
    entities = entities.append_column("event_timestamp", probes["event_us"].cast(INSTANT)).to_pandas()
    service = store.get_feature_service(f.FEATURE_SERVICE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ibis")  # its calls to DuckDB 2
        joined = store.get_historical_features(entity_df=entities, features=service).to_arrow()
    joined = joined.sort_by("transaction_id")
    return _from_states(joined.to_pydict(), probes, history_length)


def online_store(store: FeatureStore, probes: pa.Table, history_length: int) -> Inputs:
    """By lookup, as the transformer does it."""
    rows = {name: probes[name].to_pylist() for name in ("customer_id", "terminal_id")}
    service = store.get_feature_service(f.FEATURE_SERVICE)
    answer = store.get_online_features(features=service, entity_rows=rows).to_dict()
    return _from_states(answer, probes, history_length)


def _from_states(answer: Mapping[str, Sequence[Any]], probes: pa.Table, history_length: int) -> Inputs:
    requests = Requests(
        probes["transaction_id"].to_numpy(),
        probes["event_us"].to_numpy(),
        {},
        {"amount": probes["amount_cents"].to_numpy()},
    )
    states = states_of(answer, VIEWS)
    customers = states.recent[online.CUSTOMERS]
    features, history = online.model_inputs(
        requests,
        states,
        history_length=history_length,
        sequence_length=history_length,
    )
    newest = [int(state.event_us[-1]) if len(state) else f.NEVER_US for state in customers]
    return Inputs(features, history, np.array(newest))


def batch(connection: duckdb.DuckDBPyConnection, feature_set: Manifest, probes: pa.Table, as_of: datetime) -> Inputs:
    """By the batch path over everything before `as_of`, with the probes at its end."""
    history_length = int(feature_set.facts["history_length"])
    past = _past_of(connection, feature_set, probes, as_of)
    new = probes.select(["transaction_id", "customer_id", "terminal_id", "amount_cents"])
    new = new.append_column("event_timestamp", probes["event_us"].cast(INSTANT))
    stream = pa.concat_tables([past, new], promote_options="permissive")
    transactions = days.events(stream)
    day = int(probes["event_us"][0].as_py() // f.DAY_US)
    today = next(days.daily(connection, transactions, history_length, day, day))
    probe = today.position >= len(past)
    return Inputs(today.features[probe], *_histories(transactions, stream["terminal_risk"], len(past), history_length))


def _past_of(
    connection: duckdb.DuckDBPyConnection, feature_set: Manifest, probes: pa.Table, as_of: datetime
) -> pa.Table:
    """STREAM columns of everything before `as_of` at the customers and terminals of the probes, and of those customers
    whose frauds at these terminals are held against what is usual for them."""
    files = [str(path) for path in feature_set.table("events", last_day=as_of.date())]
    connection.register("probes", probes)
    query = f"""
        WITH before AS (SELECT * FROM read_parquet($files) WHERE epoch_us(event_timestamp) < $as_of),
        here AS (SELECT * FROM before WHERE terminal_id IN (SELECT terminal_id FROM probes))
        SELECT {", ".join(STREAM)} FROM before WHERE terminal_id IN (SELECT terminal_id FROM probes)
        OR customer_id IN (SELECT customer_id FROM probes UNION SELECT customer_id FROM here WHERE is_fraud = 1)
    """
    past = connection.sql(query, params={"files": files, "as_of": microseconds(as_of)}).to_arrow_table()
    return as_utc(past)


def stored(feature_set: Manifest, probes: pa.Table, as_of: datetime) -> NDArray[np.float32]:
    """[P, F] features as training reads them; NaN for probes that are not in the feature set."""
    values = np.full((len(probes), len(f.FEATURE_NAMES)), np.nan, np.float32)
    files = [str(path) for path in feature_set.table("events", as_of.date(), as_of.date())]
    real = probes.filter(pc.equal(probes["kind"], "real"))
    if files and len(real):
        wanted = pc.field("transaction_id").isin(real["transaction_id"])
        found = ds.dataset(files).to_table(columns=["transaction_id", *f.FEATURE_NAMES], filter=wanted)
        at = pc.index_in(found["transaction_id"], probes["transaction_id"]).to_numpy()
        values[at] = np.stack([found[name].to_numpy() for name in f.FEATURE_NAMES], axis=1)
    return values


def _histories(
    transactions: Events, risk: pa.ChunkedArray, first: int, history_length: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Tensors and newest times of the transactions from position `first` on, cut straight out of the stream."""
    ids, event_us, cents, customer = (
        transactions.column(name) for name in ("transaction_id", "event_us", "amount_cents", "customer")
    )
    memory = risk.to_numpy().astype(np.float32)
    order = np.lexsort((ids, event_us, customer))
    customer = customer[order]
    states = []
    for place in np.argsort(order)[first:]:
        start = np.searchsorted(customer, customer[place])
        mine = order[max(start, place - history_length) : place]
        states.append(recent(ids[mine], event_us[mine], cents[mine], memory[mine]))
    padded = online.padded(states, history_length)
    newest = np.where(padded.length > 0, padded.event_us[:, -1], f.NEVER_US)
    return f.history_tensor(event_us[first:], padded, history_length), newest
