"""What the scored transactions look back on: every customer's transactions side by side, in time order.

One pass of DuckDB over the feature files. Of the days before the first scored one, each customer's last L only: the
pool grows with what is scored, not with the age of the lake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud.features import HISTORY_CHANNELS, history_tensor, states_before
from millrace.errors import ArtifactCorrupt

GATHER_ROWS: Final = 256
"""Rows gathered at a time: what lies between pool and tensor stays in the cache."""


@dataclass(frozen=True, slots=True)
class Pool:
    """T transactions sorted by (customer, event time, transaction id)."""

    transaction_id: NDArray[np.int64]
    event_us: NDArray[np.int64]
    amount_cents: NDArray[np.int64]
    terminal_risk: NDArray[np.float32]
    start: NDArray[np.int64]  # [T] where the transaction's customer begins
    by_id: NDArray[np.int64]  # [T] places in the order of transaction_id

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] where these transactions lie; raises ArtifactCorrupt when one is not there."""
        found = np.searchsorted(self.transaction_id, ids, sorter=self.by_id)
        place = self.by_id[np.minimum(found, len(self.by_id) - 1)] if len(self.by_id) else found
        if len(place) and (not len(self.by_id) or (self.transaction_id[place] != ids).any()):
            raise ArtifactCorrupt("the feature files changed while they were read. Build the features again.")
        return place

    def history(self, place: NDArray[np.int64], length: int) -> NDArray[np.float32]:
        """history[B, length, C]: the last `length` transactions strictly before each."""
        history = np.empty((len(place), length, len(HISTORY_CHANNELS)), np.float32)
        for begin in range(0, len(place), GATHER_ROWS):
            part = place[begin : begin + GATHER_ROWS]
            columns = self.event_us, self.amount_cents, self.terminal_risk
            states = states_before(part, self.start[part], length, *columns)
            history[begin : begin + GATHER_ROWS] = history_tensor(self.event_us[part], states, length)
        return history


def read_pool(files: Sequence[Path], first: date, length: int, threads: int, memory_limit_gb: float) -> Pool:
    """The pool of `files` for rows from the day `first` on, whose histories hold `length` transactions."""
    with duckdb.connect(config={"threads": threads, "memory_limit": f"{memory_limit_gb}GB"}) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        table: pa.Table = engine.sql(
            """
            SELECT epoch_us(event_timestamp) AS event_us, transaction_id, amount_cents, terminal_risk,
                   dense_rank() OVER (ORDER BY customer_id) AS customer
            FROM read_parquet($1)
            QUALIFY event_timestamp >= $2 OR row_number() OVER (
                PARTITION BY customer_id, event_timestamp >= $2
                ORDER BY event_timestamp DESC, transaction_id DESC
            ) <= $3
            ORDER BY customer, event_us, transaction_id
            """,
            params=[[str(path) for path in files], f"{first}T00:00:00+00:00", length],
        ).to_arrow_table()
    ids = table["transaction_id"].to_numpy()
    customer = table["customer"].to_numpy()
    return Pool(
        ids,
        table["event_us"].to_numpy(),
        table["amount_cents"].to_numpy().astype(np.int64),
        table["terminal_risk"].to_numpy().astype(np.float32),
        np.searchsorted(customer, customer),
        np.argsort(ids, kind="stable"),
    )
