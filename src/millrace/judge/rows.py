"""Which columns hold what judging needs, those columns as arrays, and sums over resamples of their units.

What is done with them is `ranking.py`'s for classes and `regression.py`'s for quantities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.errors import SchemaMismatch
from millrace.instants import DAY_US, day_number

CHUNK: Final = 16
"""Resamples at a time."""

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


def start_us(day: date) -> int:
    """00:00 UTC of a day, in microseconds since 1970."""
    return day_number(day) * DAY_US


def in_window(rows: pa.Table, first: date, days: int) -> Mask:
    """mask[N]: events of the `days` from `first` on."""
    happened_us, begin_us = event_us(rows), start_us(first)
    inside: Mask = (happened_us >= begin_us) & (happened_us < begin_us + days * DAY_US)
    return inside


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
    values: Floats = rows[columns.value].fill_null(0).to_numpy() / columns.value_scale
    return values


# Weighted figures. `weights[B, units]`, or None for one plain evaluation.


def unit_sums(
    unit: NDArray[np.int64], units: int, weights: Floats | None, columns: Sequence[NDArray[Any]]
) -> list[Floats]:
    """Weighted sum of each column[N] over rows, [B] each: summed by unit first, so that a resample is one product."""
    sums = np.stack([np.bincount(unit, column, units) for column in columns], axis=1)
    weights = np.ones((1, units)) if weights is None else weights
    return list((weights @ sums).T)


def by_chunk(unit: NDArray[np.int64], weights: Floats | None, statistic: Callable[[Floats], Floats]) -> Floats:
    """Apply `statistic` to the weights of rows [., N], a few resamples at a time to stay in the cache. [B]."""
    if weights is None:
        return statistic(np.ones((1, len(unit))))
    parts = [statistic(weights[start : start + CHUNK, unit]) for start in range(0, len(weights), CHUNK)]
    return np.concatenate(parts) if parts else np.empty(0)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Element-wise quotient; NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Floats = np.where(bottom > 0, top / bottom, np.nan)
    return quotient
