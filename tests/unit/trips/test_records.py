"""The public records as they come: other types from month to month, no id, absurd rows, the same trip twice."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.ingest.core import IngestConfig, ingest
from components.validate.config import ValidateConfig
from components.validate.days import expected_rows
from millrace.installed import load
from millrace.lake.manifest import Manifest

START = datetime(2021, 1, 4)
DAYS = 4
ROWS = 400


def month(zone: pa.DataType, **changed: list[object]) -> pa.Table:
    begin = [START + timedelta(days=row % DAYS, minutes=row) for row in range(ROWS)]
    columns: dict[str, list[object]] = {
        "lpep_pickup_datetime": [*begin],
        "lpep_dropoff_datetime": [when + timedelta(minutes=10) for when in begin],
        "PULocationID": [74 + row % 3 for row in range(ROWS)],
        "DOLocationID": [41] * ROWS,
        "passenger_count": [None if row % 2 else 1.0 for row in range(ROWS)],
        "trip_distance": [2.0] * ROWS,
    } | changed
    table = pa.table(columns)
    for name in ("PULocationID", "DOLocationID"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].cast(zone))
    return table


def read(table: pa.Table, folder: Path) -> tuple[Manifest, pa.Table]:
    folder.mkdir()
    pq.write_table(table, folder / "records.parquet")
    snapshot = ingest(
        str(folder / "records.parquet"),
        folder / "lake",
        IngestConfig(workload="trips", pseudonym_key=b"a key of tests"),
    )
    return snapshot, pa.concat_tables([pq.read_table(path) for path in snapshot.table("events")])


def test_text_and_integer_zones_are_the_same_trips(tmp_path: Path) -> None:
    _, text = read(month(pa.string()), tmp_path / "text")
    _, whole = read(month(pa.int32()), tmp_path / "whole")
    _, floats = read(month(pa.float64()), tmp_path / "floats")

    assert text["trip_id"].to_pylist() == whole["trip_id"].to_pylist() == floats["trip_id"].to_pylist()
    assert set(whole["pickup_zone"].to_pylist()) == {"74", "75", "76"}


def test_a_label_is_the_minutes_from_pickup_to_dropoff_and_known_at_the_dropoff(tmp_path: Path) -> None:
    _, rows = read(month(pa.int64()), tmp_path / "records")

    assert set(rows["duration_min"].to_pylist()) == {10.0}
    began, known = (rows[name].to_pylist() for name in ("event_timestamp", "label_timestamp"))
    waited = {end - begin for begin, end in zip(began, known, strict=True)}
    assert waited == {timedelta(minutes=10)}


def test_absurd_trips_are_quarantined_with_their_reason(tmp_path: Path) -> None:
    table = month(pa.int64())
    begin = table["lpep_pickup_datetime"].to_pylist()
    end = table["lpep_dropoff_datetime"].to_pylist()
    miles = table["trip_distance"].to_pylist()
    end[0], end[1], miles[2] = begin[0] + timedelta(seconds=20), begin[1] + timedelta(hours=9), 88_000.0
    begin[3], end[3] = datetime(2009, 1, 1), datetime(2009, 1, 1, 0, 20)

    snapshot, rows = read(
        month(pa.int64(), lpep_pickup_datetime=begin, lpep_dropoff_datetime=end, trip_distance=miles),
        tmp_path / "records",
    )

    found = snapshot.facts["quarantined"]
    assert {
        "duration_min_too_small": 1,
        "duration_min_too_large": 1,
        "trip_distance_too_large": 1,
    }.items() <= found.items()
    assert sum(found.values()) == 4
    assert len(rows) == ROWS - 4


def test_the_same_trip_twice_counts_once(tmp_path: Path) -> None:
    table = month(pa.int64())

    snapshot, rows = read(pa.concat_tables([table, table.slice(5, 1)]), tmp_path / "records")

    assert len(rows) == ROWS
    assert snapshot.facts["quarantined"] == {"duplicate": 1}


def test_a_blizzards_day_is_no_broken_feed() -> None:
    """On February 1, 2021 a tenth of a Monday's trips were made; records without a profile must pass with that day."""
    usual, monday = 2_000, 18_659  # days since 1970: 2021-02-01
    reference = Days(np.arange(monday - 28, monday), np.full(28, usual))
    snapshot = Days(np.array([monday]), np.array([usual // 10]))
    config = ValidateConfig.load(load("trips"))

    expected, tolerance = expected_rows(SimpleNamespace(reference=reference, snapshot=snapshot), config)

    assert expected.tolist() == [usual]
    assert usual // 10 >= (1 - tolerance[0]) * usual > usual // 20


class Days:
    """Rows of days, as a profile of a table has them."""

    def __init__(self, days: np.ndarray, rows: np.ndarray) -> None:
        self.days, self.rows = days, rows

    def __len__(self) -> int:
        return len(self.days)
