"""A city of taxis: seeded trips in the columns of the public records, one file a month.

Trips are as fast as their distance, the hour, the day's weather, their zones and the last hours' jams make them. As in
the records, half of the passengers are not counted, zone ids are text in some months and integers in others, and a few
rows are absurd. Every day has its own random stream, so that a longer world begins as a shorter one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from millrace.instants import DAY_US, day_number
from millrace.lake.atomic import replacing_file
from trips.zones import BOROUGHS, borough_of

CENTRES: Final = {"Bronx": (4.0, 15.0), "Brooklyn": (4.0, 2.0), "Manhattan": (2.0, 8.0), "Queens": (10.0, 7.0)}
"""Where the boroughs lie, in miles, about."""
SPREAD_MILES: Final = 2.0
SHARES: Final = {"Bronx": 1.0, "Brooklyn": 2.0, "Manhattan": 3.0, "Queens": 2.0}
"""How much more often trips begin or end there."""
USUAL_MILES: Final = 2.5
"""At this distance a zone attracts about a third as many trips as next door."""
HOURS: Final = (3, 2, 2, 1, 1, 2, 4, 7, 9, 8, 7, 7, 7, 7, 8, 9, 10, 11, 11, 9, 7, 6, 5, 4)
"""Trips of a working day by the hour, to each other."""
JAMS_PCT: Final = (0, 0, 0, 0, 0, 0, 10, 30, 50, 40, 30, 30, 30, 30, 40, 50, 60, 60, 50, 30, 20, 10, 0, 0)
"""How much slower traffic is than at night, by the hour of a working day; half as much on weekends."""
ABSURD_PER_DAY: Final = 8
"""Hundreds of miles, a door that was only opened, a meter that ran all night; one in nine begins in 2009."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """About as many trips a day as green taxis make."""

    trips_a_day: int = 1000
    zones: int = 60
    days: int = 59
    start: date = date(2021, 1, 1)
    seed: int = 0
    slower_from_day: int | None = None
    """From this day on everything takes a third longer."""

    def __post_init__(self) -> None:
        for name in ("trips_a_day", "zones", "days"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; wanted at least 1")


class City:
    """Where the zones lie, how busy and how slow each is."""

    def __init__(self, config: WorldConfig) -> None:
        rng = np.random.default_rng([config.seed, 0])
        known = [zone for zone in range(1, 264) if BOROUGHS[borough_of(str(zone))] in CENTRES]
        boroughs = [BOROUGHS[borough_of(str(zone))] for zone in known]
        chosen = rng.permutation(len(known))[: config.zones]

        self.config = config
        self.zone = np.array(known)[chosen]
        self.place = np.array([CENTRES[boroughs[at]] for at in chosen]) + rng.normal(0, SPREAD_MILES, (len(chosen), 2))
        weight = rng.lognormal(0, 1, len(chosen)) * [SHARES[boroughs[at]] for at in chosen]
        self.share = weight / weight.sum()

        blocks = np.abs(self.place[:, None] - self.place[None, :]).sum(axis=2)
        towards = weight * np.exp(-blocks / USUAL_MILES)
        self.towards = np.cumsum(towards / towards.sum(axis=1, keepdims=True), axis=1)
        self.slowness = rng.lognormal(0, 0.15, len(chosen))

    def day(self, day: int) -> dict[str, NDArray[Any]]:
        """The trips that begin on a day of the world, in time order, as columns of the public records."""
        rng = np.random.default_rng([self.config.seed, 1, day])
        weekend = (self.config.start + timedelta(days=day)).weekday() >= 5
        count = rng.poisson(self.config.trips_a_day * (0.6 if weekend else 1.0))
        second = np.sort(_seconds_of_day(rng, count, weekend))
        pickup = rng.choice(len(self.zone), count, p=self.share)
        dropoff = (self.towards[pickup] < rng.random((count, 1))).sum(axis=1).clip(max=len(self.zone) - 1)

        miles = self._miles(rng, pickup, dropoff)
        slow = self._slowness(rng, day, second // 3600, weekend)
        slow = slow * np.sqrt(self.slowness[pickup] * self.slowness[dropoff])
        seconds = (120 + 200 * miles**0.85) * slow * rng.lognormal(0, 0.2, count)
        passengers = np.where(rng.random(count) < 0.5, np.nan, rng.choice([1.0, 1, 1, 1, 2, 3, 5], count))
        absurd = rng.permutation(count)[:ABSURD_PER_DAY]
        miles[absurd[0::3]] = rng.uniform(200, 90_000, len(absurd[0::3]))
        seconds[absurd[1::3]] = rng.uniform(0, 40, len(absurd[1::3]))
        seconds[absurd[2::3]] = rng.uniform(4000, 86_000, len(absurd[2::3]))

        begin_us = (day_number(self.config.start) + day) * DAY_US + second * 1_000_000
        begin_us[absurd[:1]] = day_number(date(2009, 1, 1)) * DAY_US + second[absurd[:1]]
        return {
            "lpep_pickup_datetime": begin_us,
            "lpep_dropoff_datetime": begin_us + np.rint(seconds).astype(np.int64) * 1_000_000,
            "PULocationID": self.zone[pickup],
            "DOLocationID": self.zone[dropoff],
            "passenger_count": passengers,
            "trip_distance": np.round(miles, 2),
            "fare_amount": np.round(3 + 2.5 * np.minimum(miles, 100), 2),
        }

    def _miles(self, rng: np.random.Generator, pickup: NDArray[Any], dropoff: NDArray[Any]) -> NDArray[np.float64]:
        """Along the streets; some meters give no distance."""
        blocks = np.abs(self.place[pickup] - self.place[dropoff]).sum(axis=1)
        miles: NDArray[np.float64] = (blocks + 0.7) * rng.lognormal(0, 0.15, len(pickup))
        miles[rng.random(len(miles)) < 0.02] = 0.0
        return miles

    def _slowness(self, rng: np.random.Generator, day: int, hour: NDArray[Any], weekend: bool) -> NDArray[np.float64]:
        """Rush hours, the day's weather, and jams that last some hours."""
        rush = 1 + np.array(JAMS_PCT)[hour] / 100 * (0.5 if weekend else 1.0)
        weather = rng.lognormal(0, 0.08)
        jam = np.convolve(rng.normal(0, 0.08, 27), np.ones(4) / 2, mode="valid")
        slower = self.config.slower_from_day is not None and day >= self.config.slower_from_day
        slowness: NDArray[np.float64] = rush * weather * np.exp(jam[hour]) * (4 / 3 if slower else 1.0)
        return slowness


def write(config: WorldConfig, folder: Path) -> None:
    """A file for each month; those that are there already are kept."""
    city = City(config)
    month_of = [f"{config.start + timedelta(days=day):%Y-%m}" for day in range(config.days)]

    for place, month in enumerate(sorted(set(month_of))):
        path = folder / f"green_tripdata_{month}.parquet"
        if not path.exists():
            parts = [city.day(day) for day in range(config.days) if month_of[day] == month]
            columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            with replacing_file(path) as aside:
                pq.write_table(_table(columns, text=place % 2 == 0), aside)


def simulate(below: Path) -> Path:
    """The world of the demo."""
    config = WorldConfig()
    folder = below / f"trips-{config.trips_a_day}x{config.zones}x{config.days}"
    folder.mkdir(parents=True, exist_ok=True)
    write(config, folder)
    return folder


def _seconds_of_day(rng: np.random.Generator, count: int, weekend: bool) -> NDArray[np.int64]:
    weight = np.ones(24) + np.array(HOURS) * (0.5 if weekend else 1.0)
    return rng.choice(24, count, p=weight / weight.sum()) * 3600 + rng.integers(0, 3600, count)


def _table(columns: dict[str, NDArray[Any]], text: bool) -> pa.Table:
    """Local times without an offset, as in the public records; what is NaN is empty."""
    zone = pa.string() if text else pa.int32()
    types = dict.fromkeys(("PULocationID", "DOLocationID"), zone)
    types |= dict.fromkeys(("lpep_pickup_datetime", "lpep_dropoff_datetime"), pa.timestamp("us"))
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    return pa.table({name: array.cast(types.get(name, array.type)) for name, array in arrays.items()})
