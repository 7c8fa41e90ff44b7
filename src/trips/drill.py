"""The days of the drill: after healthy weeks meters count too many miles, and later the whole city is slower.

Limits for a world so small are in `drill.yaml`; the outage is the drill's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from millrace.instants import DAY_US, day_number
from trips.schema import ALIASES, EVENTS, MAX_MILES
from trips.world import City, WorldConfig

OVERRIDES: Final = Path(__file__).with_name("drill.yaml")
SETTINGS: Final[dict[str, str]] = {}
SHIFT: Final = "meters that count more miles"
SHIFTED: Final = "miles"
PATTERN: Final = "a city slower by a third"
IDS_A_DAY: Final = 1_000_000


def days(
    *, start: date, size: int, count: int, seed: int, shift_day: int, shift_pct: float, pattern_day: int
) -> Iterator[pa.Table]:
    """About `size` trips on a working day; those that ingest would reject are left out."""
    city = City(WorldConfig(trips_a_day=size, days=count, start=start, seed=seed, slower_from_day=pattern_day))
    for day in range(count):
        yield _delivered(city, day, 1 + shift_pct / 100 if day >= shift_day else 1.0)


def _delivered(city: City, day: int, factor: float) -> pa.Table:
    """The day's trips as a snapshot has them, in order; miles times `factor`."""
    columns = {ALIASES.get(name, name): values for name, values in city.day(day).items()}
    begin_us, end_us = columns["event_timestamp"], columns["label_timestamp"]
    columns["trip_id"] = day * IDS_A_DAY + np.arange(len(begin_us))
    columns["trip_distance"] = np.round(columns["trip_distance"] * factor, 2)
    columns["duration_min"] = (end_us - begin_us) / 60e6

    whole = (columns["duration_min"] >= 1) & (columns["duration_min"] <= 60) & (columns["trip_distance"] <= MAX_MILES)
    whole &= begin_us // DAY_US == day_number(city.config.start) + day
    arrays = [pa.array(columns[field.name][whole], from_pandas=True).cast(field.type) for field in EVENTS]
    return pa.Table.from_arrays(arrays, schema=EVENTS)
