"""What the events of some days look back on: each entity's events side by side, in time order.

One pass of DuckDB over the feature files. Of the days before the first one, each entity's last L only: the pool grows
with these days, not with the age of the lake. The entity is that of the workload's recent view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.errors import ArtifactCorrupt
from millrace.features.histories import Pool
from millrace.fields import View
from millrace.installed import Workload
from millrace.lake.states import key_sql
from millrace.lake.training_set import remembered_by


@dataclass(frozen=True, slots=True)
class Past:
    """T events sorted by (entity, event time, event id), found by their ids."""

    workload: Workload
    pool: Pool
    event_id: NDArray[np.int64]  # [T]
    start: NDArray[np.int64]  # [T] where the event's entity begins
    by_id: NDArray[np.int64]  # [T] places in the order of the ids

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] where these events lie; raises ArtifactCorrupt when one is not there."""
        found = np.searchsorted(self.event_id, ids, sorter=self.by_id)
        place = self.by_id[np.minimum(found, len(self.by_id) - 1)] if len(self.by_id) else found
        if len(place) and (not len(self.by_id) or (self.event_id[place] != ids).any()):
            raise ArtifactCorrupt("the feature files changed while they were read. Build the features again.")
        return place

    def history(self, ids: NDArray[np.int64], length: int) -> NDArray[np.float32]:
        """history[B, length, C]: the last `length` events strictly before each."""
        place = self.places(ids)
        channels = len(self.workload.features.HISTORY_CHANNELS)
        return self.pool.tensor(place, self.start[place], length, channels, self.workload.batch.history)


def read_past(
    workload: Workload,
    view: View,
    files: Sequence[Path],
    first: date,
    length: int,
    *,
    threads: int,
    memory_limit_gb: float,
) -> Past:
    """The past of `files` for rows from the day `first` on, whose histories hold `length` events of `view`'s entity."""
    remembered = remembered_by(view)
    table = _sorted(workload, view, list(remembered), files, first, length, threads, memory_limit_gb)
    ids = table["event_id"].to_numpy()
    entity = table["entity"].to_numpy()
    values = {name: table[name].to_numpy().astype(dtype) for name, dtype in remembered.items()}
    pool = Pool(table["event_us"].to_numpy(), values)
    return Past(workload, pool, ids, np.searchsorted(entity, entity), np.argsort(ids, kind="stable"))


def _sorted(
    workload: Workload,
    view: View,
    remembered: Sequence[str],
    files: Sequence[Path],
    first: date,
    length: int,
    threads: int,
    memory_limit_gb: float,
) -> pa.Table:
    """Events of `first` and later, and of those before the last `length` of each entity."""
    event_id = workload.schema.EVENT_ID
    key = key_sql(workload, view.entity)
    columns = "".join(f', "{name}"' for name in remembered)

    with duckdb.connect(config={"threads": threads, "memory_limit": f"{memory_limit_gb}GB"}) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        return engine.sql(
            f"""
            SELECT epoch_us(event_timestamp) AS event_us, "{event_id}" AS event_id,
                   dense_rank() OVER (ORDER BY {key}) AS entity {columns}
            FROM read_parquet($1)
            QUALIFY event_timestamp >= $2 OR row_number() OVER (
                PARTITION BY {key}, event_timestamp >= $2
                ORDER BY event_timestamp DESC, "{event_id}" DESC
            ) <= $3
            ORDER BY entity, event_us, event_id
            """,
            params=[[str(path) for path in files], f"{first}T00:00:00+00:00", length],
        ).to_arrow_table()
