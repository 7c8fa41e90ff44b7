"""The simulated city: seeded, in the public columns, with the quirks that the public records have."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millrace.errors import InvalidInput
from trips.world import City, WorldConfig, write

SMALL = WorldConfig(trips_a_day=200, zones=12, days=33, start=date(2021, 1, 1))


def minutes(columns: dict[str, np.ndarray]) -> np.ndarray:
    return (columns["lpep_dropoff_datetime"] - columns["lpep_pickup_datetime"]) / 60e6


def test_a_longer_world_begins_as_a_shorter_one() -> None:
    longer, shorter = City(WorldConfig(trips_a_day=100, days=60)), City(WorldConfig(trips_a_day=100, days=5))

    for name, values in shorter.day(4).items():
        np.testing.assert_array_equal(values, longer.day(4)[name])


def test_zone_ids_are_text_in_one_month_and_integers_in_the_next(tmp_path: Path) -> None:
    write(SMALL, tmp_path)

    january, february = (pq.read_table(path) for path in sorted(tmp_path.iterdir()))
    assert january.schema.field("PULocationID").type == pa.string()
    assert february.schema.field("PULocationID").type == pa.int32()
    assert 0.3 < january["passenger_count"].null_count / len(january) < 0.7


def test_a_few_rows_of_a_day_are_absurd() -> None:
    day = City(SMALL).day(3)
    took = minutes(day)

    assert (day["trip_distance"] > 100).sum() >= 2
    assert (took < 1).sum() >= 1
    assert (took > 60).sum() >= 1
    assert (day["lpep_pickup_datetime"] < 1.4e15).sum() == 1
    assert np.mean((took >= 1) & (took <= 60)) > 0.93


def test_the_rush_hour_is_slower_than_the_night() -> None:
    city = City(WorldConfig(trips_a_day=4000, zones=12))
    days = [city.day(day) for day in range(4, 9)]
    pace = {}
    for name, hours in {"night": (0, 5), "evening": (16, 18)}.items():
        paces = [
            minutes(day)[(hour >= hours[0]) & (hour < hours[1]) & (day["trip_distance"] > 2)]
            / day["trip_distance"][(hour >= hours[0]) & (hour < hours[1]) & (day["trip_distance"] > 2)]
            for day in days
            for hour in [day["lpep_pickup_datetime"] // 3_600_000_000 % 24]
        ]
        pace[name] = np.median(np.concatenate(paces))

    assert pace["evening"] > 1.25 * pace["night"]


def test_a_city_that_is_slower_from_a_day_on_is_the_same_before() -> None:
    usual = City(WorldConfig(trips_a_day=500))
    slow = City(WorldConfig(trips_a_day=500, slower_from_day=10))

    np.testing.assert_array_equal(minutes(usual.day(9)), minutes(slow.day(9)))
    assert np.median(minutes(slow.day(10)) / minutes(usual.day(10))) == pytest.approx(4 / 3, rel=0.01)


def test_a_world_without_days_is_refused() -> None:
    with pytest.raises(InvalidInput, match="days is 0; wanted at least 1"):
        WorldConfig(days=0)
