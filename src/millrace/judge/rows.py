"""Which columns hold what judging needs, and those columns as arrays. A table in, arrays of its N rows out.

What is done with them is `ranking.py`'s for classes and `regression.py`'s for quantities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.errors import SchemaMismatch

DAY_US: Final = 86_400_000_000

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a workload's rows keep what judging needs, and what makes a unit's outcome known beforehand."""

    unit: str
    """Id of the unit: who is reviewed, and drawn again by the bootstrap."""
    label: str
    """Null where it is not known."""
    value: str = ""
    """What a missed positive costs; empty where nothing says so, and then figures in money are NaN."""
    value_scale: float = 1.0
    """How many of the value column make one: 100 for cents."""
    known_days: int = 0
    """Positives this many days before the test window are looked at for units that are known already; 0 drops none."""

    @property
    def required(self) -> list[str]:
        """What every judged table must have."""
        return ["event_timestamp", self.unit, self.label, "label_timestamp"]

    @property
    def names(self) -> list[str]:
        """Every column that is read."""
        return [*self.required, self.value] if self.value else self.required


def require(rows: pa.Table, columns: Columns) -> None:
    """Raise SchemaMismatch naming the columns that `rows` lack."""
    missing = [name for name in columns.required if name not in rows.column_names]
    if missing:
        raise SchemaMismatch(f"rows lack {missing}; they have {rows.column_names}. Judge rows of a training set.")


def event_us(rows: pa.Table) -> NDArray[np.int64]:
    """[N] microseconds since 1970."""
    times: NDArray[np.int64] = rows["event_timestamp"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return times


def label_us(rows: pa.Table) -> NDArray[np.int64]:
    """[N] the instant from which each label is known; the end of time where it is not."""
    end_of_time = np.iinfo(np.int64).max
    times = rows["label_timestamp"].cast(pa.timestamp("us")).cast(pa.int64())
    known: NDArray[np.int64] = times.fill_null(end_of_time).to_numpy()
    return known


def units(rows: pa.Table, columns: Columns) -> tuple[NDArray[np.int64], int]:
    """[N] numbers of the units, counted in the order of their ids, and how many units there are."""
    encoded = rows[columns.unit].combine_chunks().dictionary_encode()
    ids = encoded.dictionary.to_pylist()
    place = np.empty(len(ids), np.int64)
    place[np.argsort(np.array(ids, dtype=object), kind="stable")] = np.arange(len(ids))
    return place[encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)], len(ids)


def values(rows: pa.Table, columns: Columns) -> Floats:
    """[N] what missing each row would cost, 0 where nothing is said of a row; NaN where the table says nothing."""
    if columns.value not in rows.column_names:
        return np.full(rows.num_rows, np.nan)
    amounts: Floats = rows[columns.value].fill_null(0).to_numpy() / columns.value_scale
    return amounts
