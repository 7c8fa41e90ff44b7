"""The offline side of a replay: a day's transactions and the model inputs that batch features made of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud.features import FEATURE_NAMES, history_tensor, states_before
from millrace.errors import NotFound
from millrace.lake.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Day:
    """B transactions in (event_timestamp, transaction_id) order and their offline model inputs."""

    rows: pa.Table
    features: NDArray[np.float32]  # [B, F]
    history: NDArray[np.float32]  # [B, L, C]

    def until(self, event_us: int) -> Day:
        """The transactions before an instant."""
        count = int(np.searchsorted(self.rows["event_us"].to_numpy(), event_us))
        return Day(self.rows.slice(0, count), self.features[:count], self.history[:count])


def load_day(manifest: Manifest, day: date, limit: int | None, length: int) -> Day:
    """The day's transactions and their offline inputs; histories are gathered from everything up to then."""
    import duckdb

    if not manifest.table("events", day, day):
        days = f"{manifest.facts.get('first_day')} to {manifest.facts.get('last_day')}"
        raise NotFound(f"feature set {manifest.id} has no day {day}; it has {days}")
    paths = [str(path) for path in manifest.table("events", None, day)]
    today = [str(path) for path in manifest.table("events", day, day)]
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
        names = ", ".join(FEATURE_NAMES)
        rows: pa.Table = connection.sql(
            "SELECT transaction_id, epoch_us(event_timestamp) AS event_us, customer_id, terminal_id, amount_cents, "
            f"{names} FROM read_parquet($1) ORDER BY event_us, transaction_id LIMIT $2",
            params=[today, limit or 2**62],
        ).to_arrow_table()
        connection.register("rows", rows)
        pool: pa.Table = connection.sql(
            "SELECT transaction_id, epoch_us(event_timestamp) AS event_us, customer_id, amount_cents, terminal_risk "
            "FROM read_parquet($1) WHERE customer_id IN (SELECT customer_id FROM rows) "
            "ORDER BY customer_id, event_us, transaction_id",
            params=[paths],
        ).to_arrow_table()
    features = np.stack([rows[name].to_numpy() for name in FEATURE_NAMES], axis=1).astype(np.float32)
    return Day(rows, features, _histories(rows, pool, length))


def _histories(rows: pa.Table, pool: pa.Table, length: int) -> NDArray[np.float32]:
    """history[B, length, C] of the rows, from a pool sorted by customer and time that has the rows in it."""
    customers = pool["customer_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.searchsorted(customers, customers)  # sorted by customer, so codes rise
    ids = pool["transaction_id"].to_numpy()
    order = np.argsort(ids)
    position = order[np.searchsorted(ids, rows["transaction_id"].to_numpy(), sorter=order)]
    columns = (pool[name].to_numpy() for name in ("event_us", "amount_cents", "terminal_risk"))
    states = states_before(position, starts[position], length, *columns)
    return history_tensor(rows["event_us"].to_numpy(), states, length)
