"""Drift and faults that a simulation plants on request: what the gates, monitors and ingest exist to catch.

Days count from the start of the simulation. Drift changes the world (amounts, a new fraud pattern) and is planted by
`simulator` while it draws; faults change only the delivery (rows lost, doubled or late, columns slipped) and are
applied here to a finished day.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import InvalidInput

NEVER: Final = 1_000_000
"""A day that no simulation reaches."""
SLIPS: Final = ("none", "rename", "cents", "local_time")
RENAMED_AMOUNT: Final = "value_eur"
"""What the amount column is called after the slip `rename`."""
_STREAM: Final = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """Everything off by default."""

    inflation_pct_per_week: float = 0.0
    """Covariate shift: amounts grow by this much a week before the fraud rules see them: P(fraud | amount) stays."""
    inflation_from_day: int = 0
    night_fraud_from_day: int = NEVER
    """Concept drift: from this day cards are drained at night by bursts of small payments (scenario 4)."""
    outage_from_day: int = NEVER
    outage_days: int = 3
    outage_terminal_share: float = 0.2
    """Feed outage: the terminals with the lowest ids, this share of all, deliver nothing for `outage_days`."""
    slip: str = "none"
    """`rename`: amount becomes value_eur; `cents`: amounts times 100; `local_time`: naive local timestamps."""
    slip_from_day: int = 0
    slip_timezone: str = "Europe/Berlin"
    duplicate_share: float = 0.0
    """This share of a day's rows is delivered twice."""
    shuffled_share: float = 0.0
    """This share of a day's rows stands somewhere else in the file than its time says."""
    late_share: float = 0.0
    """This share of a day's rows arrives with the next day's delivery (the last day's: not at all)."""

    def __post_init__(self) -> None:
        if self.slip not in SLIPS:
            raise InvalidInput(f"slip is {self.slip!r}; wanted one of {SLIPS}")
        for name in ("outage_terminal_share", "duplicate_share", "shuffled_share", "late_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; wanted a share in [0, 1]")
        try:
            ZoneInfo(self.slip_timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise InvalidInput(f"slip_timezone is {self.slip_timezone!r}; wanted a name like Europe/Berlin") from error

    def inflation(self, day: int) -> float:
        """Factor on the amounts of `day`; 1 before the shift begins."""
        weeks = max(day - self.inflation_from_day, 0) / 7
        return float((1 + self.inflation_pct_per_week / 100) ** weeks)

    def silent(self, day: int, terminals: int) -> int:
        """How many terminals (those with the lowest ids) deliver nothing on `day`."""
        out = self.outage_from_day <= day < self.outage_from_day + self.outage_days
        return round(self.outage_terminal_share * terminals) if out else 0


def deliver(days: Iterable[pa.Table], planted: Planted, seed: int) -> Iterator[pa.Table]:
    """The days as they arrive: late rows moved, rows doubled and shuffled, columns slipped."""
    late = None
    for day, table in enumerate(days):
        rng = np.random.default_rng([seed, _STREAM, day])
        is_late = rng.random(len(table)) < planted.late_share
        arrived = table.filter(pa.array(~is_late)) if is_late.any() else table
        arrived = arrived if late is None else pa.concat_tables([late, arrived])
        late = table.filter(pa.array(is_late)) if is_late.any() else None

        order = _delivery_order(rng, len(arrived), planted)
        arrived = arrived if order is None else arrived.take(pa.array(order))
        yield _slip(arrived, planted) if day >= planted.slip_from_day else arrived


def _delivery_order(rng: np.random.Generator, rows: int, planted: Planted) -> np.ndarray | None:
    if planted.duplicate_share == planted.shuffled_share == 0:
        return None
    twice = np.flatnonzero(rng.random(rows) < planted.duplicate_share)
    order = np.sort(np.concatenate([np.arange(rows), twice]))
    moved = np.flatnonzero(rng.random(len(order)) < planted.shuffled_share)
    order[moved] = order[rng.permutation(moved)]
    return order


def _slip(table: pa.Table, planted: Planted) -> pa.Table:
    if planted.slip == "rename":
        return table.rename_columns([RENAMED_AMOUNT if name == "amount" else name for name in table.column_names])
    if planted.slip == "cents":
        cents = pc.multiply(table["amount"], pa.scalar(100, pa.int64()))
        return _with(table, "amount", cents.cast(pa.decimal128(12, 2)))
    if planted.slip == "local_time":
        local = _local_time(table["event_timestamp"], ZoneInfo(planted.slip_timezone))
        return _with(table, "event_timestamp", local)
    return table


def _with(table: pa.Table, name: str, column: pa.ChunkedArray | pa.Array) -> pa.Table:
    field = table.schema.field(name).with_type(column.type)
    return table.set_column(table.schema.get_field_index(name), field, column)


def _local_time(stamps: pa.ChunkedArray, zone: ZoneInfo) -> pa.Array:
    """Naive local time; the offset is looked up once per hour, since zones change on the hour."""
    us = stamps.cast(pa.int64()).to_numpy()
    hours, place = np.unique(us // 3_600_000_000, return_inverse=True)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    offsets = [(epoch + timedelta(hours=int(hour))).astimezone(zone).utcoffset() for hour in hours]
    shift = np.array([offset // timedelta(microseconds=1) for offset in offsets if offset is not None], dtype=np.int64)
    return pa.array(us + shift[place]).cast(pa.timestamp("us")) if len(us) else pa.array([], pa.timestamp("us"))
