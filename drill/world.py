"""The days of the drill: healthy weeks, then what goes wrong, on a world small enough for a laptop's ten minutes.

What goes wrong with the events is the workload's (`millrace.workload.Drill`); here is when, and the outage of the feed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pyarrow as pa

from millrace.errors import InvalidInput
from millrace.workload import Drill

WARM_DAYS = 50
"""Days before the first one that is served: the first champion learns from them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """Days count from the first one that is served, hours from midnight UTC."""

    size: int = 1_000
    """Of the world, at least 1; what it counts is the workload's: events of a working day, or who makes them."""
    days: int = 60
    seed: int = 11
    start: date = date(2018, 4, 1) + timedelta(days=WARM_DAYS)
    """The first day that is served."""
    shift_day: int = 15
    shift_pct: float = 10.0
    """From then on what the workload shifts is larger by this."""
    outage_day: int = 20
    outage_hour: int = 11
    outage_hours: int = 1
    """For so long nothing is delivered at all."""
    pattern_day: int = 24
    """From then on there is a pattern that no model has seen."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidInput(f"--size is {self.size}; a world has a size of 1 or more")
        if not 8 <= self.shift_day < self.outage_day < self.pattern_day:
            raise InvalidInput(
                f"shift, outage and pattern come on days {self.shift_day}, {self.outage_day}, {self.pattern_day}; "
                "wanted them in this order, the first not before day 8"
            )

    def date(self, day: int) -> date:
        return self.start + timedelta(days=day)

    def instant(self, day: int, hour: float = 0) -> datetime:
        return datetime.combine(self.date(day), time(), UTC) + timedelta(hours=hour)

    def day_of(self, moment: datetime) -> float:
        """Days since the drill began."""
        return (moment - self.instant(0)) / timedelta(days=1)

    def first_labels(self, delay_days: int) -> datetime:
        """When the first labels of the new pattern arrive."""
        return self.instant(self.pattern_day + delay_days)


def tables(script: Script, drill: Drill) -> Iterator[tuple[int, pa.Table]]:
    """(day, raw rows as they were delivered); days below zero are the warm ones."""
    made = drill.days(
        start=script.start - timedelta(days=WARM_DAYS),
        size=script.size,
        count=WARM_DAYS + script.days,
        seed=script.seed,
        shift_day=WARM_DAYS + script.shift_day,
        shift_pct=script.shift_pct,
        pattern_day=WARM_DAYS + script.pattern_day,
    )
    for number, table in enumerate(made):
        day = number - WARM_DAYS
        yield day, _without_outage(table, script, day)


def _without_outage(table: pa.Table, script: Script, day: int) -> pa.Table:
    if day != script.outage_day:
        return table
    us = table["event_timestamp"].cast(pa.int64()).to_numpy()
    first = script.instant(day, script.outage_hour).timestamp() * 1e6
    last = first + script.outage_hours * 3.6e9
    return table.filter(pa.array(~((us >= first) & (us < last)).astype(bool)))


def seconds_of(table: pa.Table) -> np.ndarray:
    """[N] event times, seconds since 1970."""
    return table["event_timestamp"].cast(pa.int64()).to_numpy() / 1e6


def by_refresh(rows: pa.Table, refreshes_per_day: int) -> Iterator[tuple[datetime, pa.Table]]:
    """(instant of the refresh of states, the rows from it on until the next), in order."""
    every = 86_400 // refreshes_per_day
    number = seconds_of(rows) // every
    for refresh in np.unique(number):
        yield datetime.fromtimestamp(int(refresh) * every, UTC), rows.filter(pa.array(number == refresh))
