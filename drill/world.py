"""The days of the drill: healthy weeks, then what goes wrong, on a world small enough for a laptop's ten minutes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud.features import REFRESHES_PER_DAY
from fraud.planted import Planted
from fraud.schema import LABEL_DELAY_DAYS
from fraud.simulator import SimulationConfig, simulate
from millrace.errors import InvalidInput

WARM_DAYS = 50
"""Days before the first one that is served: the first champion learns from them."""
LAST_PLANTED_DAYS = 24
"""From a new pattern until a model that has seen it can be judged on a week that has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """Days count from the first one that is served, hours from midnight UTC."""

    customers: int = 1_000
    terminals: int = 2_000
    days: int = 60
    seed: int = 11
    shift_day: int = 15
    shift_pct: float = 10.0
    """From then on all amounts are larger by this."""
    outage_day: int = 20
    outage_hour: int = 11
    outage_hours: int = 1
    """For so long nothing is delivered at all."""
    pattern_day: int = 24
    """From then on cards are drained at night by bursts of small payments."""

    def __post_init__(self) -> None:
        if not 8 <= self.shift_day < self.outage_day < self.pattern_day:
            raise InvalidInput(
                f"shift, outage and pattern come on days {self.shift_day}, {self.outage_day}, {self.pattern_day}; "
                "wanted them in this order, the first not before day 8"
            )

    @property
    def start(self) -> date:
        """The first day that is served."""
        return SimulationConfig().start + timedelta(days=WARM_DAYS)

    def date(self, day: int) -> date:
        return self.start + timedelta(days=day)

    def instant(self, day: int, hour: float = 0) -> datetime:
        return datetime.combine(self.date(day), time(), UTC) + timedelta(hours=hour)

    def day_of(self, moment: datetime) -> float:
        """Days since the drill began."""
        return (moment - self.instant(0)) / timedelta(days=1)

    @property
    def first_labels(self) -> datetime:
        """When the first labels of the new pattern arrive."""
        return self.instant(self.pattern_day + LABEL_DELAY_DAYS)


def tables(script: Script) -> Iterator[tuple[int, pa.Table]]:
    """(day, raw rows as they were delivered); days below zero are the warm ones."""
    planted = Planted(night_fraud_from_day=WARM_DAYS + script.pattern_day)
    config = SimulationConfig(
        customers=script.customers,
        terminals=script.terminals,
        radius=10.0,
        days=WARM_DAYS + script.days,
        seed=script.seed,
        planted=planted,
    )
    for number, table in enumerate(simulate(config)):
        day = number - WARM_DAYS
        yield day, _without_outage(_inflated(table, script, day), script, day)


def _inflated(table: pa.Table, script: Script, day: int) -> pa.Table:
    """Amounts after the shift; frauds stay frauds."""
    if day < script.shift_day:
        return table
    cents = pc.multiply(table["amount"].cast(pa.float64()), 100 + script.shift_pct)
    amount = pc.divide(pc.round(cents), 100.0).cast(pa.decimal128(12, 2), safe=False)
    return table.set_column(table.schema.get_field_index("amount"), table.schema.field("amount"), amount)


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


def by_refresh(rows: pa.Table) -> Iterator[tuple[datetime, pa.Table]]:
    """(instant of the refresh of terminal states, the rows from it on until the next), in order."""
    every = 86_400 // REFRESHES_PER_DAY
    number = seconds_of(rows) // every
    for refresh in np.unique(number):
        yield datetime.fromtimestamp(int(refresh) * every, UTC), rows.filter(pa.array(number == refresh))
