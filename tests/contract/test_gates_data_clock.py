"""The data gate on a clock that moves: a city of taxis whose records say the hour of another zone from some day on."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from components.validate.config import ValidateConfig
from components.validate.core import compare
from components.validate.rules import judge
from millrace.installed import load
from millrace.instants import DAY_US, day_number
from trips.world import WorldConfig, write

WORLD = WorldConfig(trips_a_day=2500, zones=30, days=42, seed=8)
CLOCKS = ("lpep_pickup_datetime", "lpep_dropoff_datetime")
HOUR_US = 3_600_000_000
BLIZZARD = 30
"""The day of the world on which few leave home, and fewer after noon."""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write(WORLD, folder)
    return folder


def rules(records, tmp_path, change):
    """Rule → how it was judged, where `change` has been at every file."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in sorted(records.glob("*.parquet")):
        pq.write_table(change(pq.read_table(path)), raw / path.name)
    snapshot = ingest(str(raw), tmp_path / "lake", IngestConfig(workload="trips", pseudonym_key=b"clock"))
    config = ValidateConfig.load(load("trips"), profile="simulated")
    comparison, _ = compare(snapshot, None, config, threads=1, memory_limit_gb=1.0)
    return {rule.name: rule for rule in judge(comparison, config)}


def day_of(table):
    return table[CLOCKS[0]].cast(pa.int64()).to_numpy() // DAY_US - day_number(date(2021, 1, 1))


def moved(hours, from_day):
    """Both times of every trip from a day of the world on are `hours` later than they were."""

    def change(table):
        later = np.where(day_of(table) >= from_day, hours * HOUR_US, 0)
        for name in CLOCKS:
            times = pa.array(table[name].cast(pa.int64()).to_numpy() + later).cast(pa.timestamp("us"))
            table = table.set_column(table.schema.get_field_index(name), name, times)
        return table

    return change


def snowed_in(table):
    """On one day a seventh of the trips are made until noon, and a fourteenth later."""
    day, hour = day_of(table), pc.hour(table[CLOCKS[0]]).to_numpy()
    rare = np.where(hour < 12, 7, 14)
    return table.filter(pa.array((day != BLIZZARD) | (np.arange(len(table)) % rare == 0)))


@pytest.mark.parametrize(("hours", "from_day"), [(1, 28), (-1, 28), (5, 35)])
def test_a_clock_that_moves_and_stays_there_is_blocked(records, tmp_path, hours, from_day):
    found = rules(records, tmp_path, moved(hours, from_day))

    assert not found["clock_shift_ks"].passed
    assert f"by {'-' if hours < 0 else '+'}" in found["clock_shift_ks"].detail


def test_a_day_of_snow_is_no_moved_clock(records, tmp_path):
    found = rules(records, tmp_path, snowed_in)

    assert found["clock_shift_ks"].value == 0
    assert [name for name, rule in found.items() if not rule.passed] == []


def test_an_ordinary_city_passes(records, tmp_path):
    found = rules(records, tmp_path, lambda table: table)

    assert found["clock_shift_ks"].value == 0
    assert [name for name, rule in found.items() if not rule.passed] == []


def test_a_workload_that_sets_no_limit_is_not_asked():
    assert ValidateConfig.load(load("fraud"), profile="simulated").max_clock_shift_ks is None
