"""A source of another workload: fields made where they are absent, keys of any type, ranges, rules, stray days."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from components.ingest.edges import edge_days
from millrace.errors import InvalidInput
from millrace.installed import Workload, load
from millrace.lake.manifest import Manifest

START = datetime(2021, 3, 1, 8, tzinfo=UTC)


@pytest.fixture
def take(tmp_path: Path, rides: Workload) -> Callable[[Path], Manifest]:
    """`take(source)`: the snapshot of rides."""

    def run(source: Path) -> Manifest:
        return ingest(str(source), tmp_path / "lake", IngestConfig(workload=rides.name, pseudonym_key=b"k"))

    return run


def table_of(count: int = 40, start: datetime = START, **changes: list[Any]) -> pa.Table:
    boarded = [start + timedelta(minutes=10 * one) for one in range(count)]
    columns: dict[str, Any] = {
        "Boarded": boarded,
        "Alighted": [moment + timedelta(minutes=5 + one) for one, moment in enumerate(boarded)],
        "stop": [one % 7 for one in range(count)],
        "riders": [None if one % 2 else 1.0 for one in range(count)],
        "metres": [100.0 + one for one in range(count)],
    }
    columns |= changes
    return pa.table(columns)


def write(table: pa.Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def rows_of(manifest: Manifest) -> pa.Table:
    return pa.concat_tables([pq.read_table(path, partitioning=None) for path in manifest.table("events")])


def test_an_id_and_a_label_that_the_source_lacks_are_made_from_the_row(take: Any, tmp_path: Path) -> None:
    made = take(write(table_of(), tmp_path / "a.parquet"))

    rows = rows_of(made)
    assert rows.column_names == [
        "ride_id", "event_timestamp", "stop", "riders", "metres", "line", "minutes", "label_timestamp"
    ]  # fmt: skip
    assert len(set(rows["ride_id"].to_pylist())) == 40
    assert min(rows["ride_id"].to_pylist()) >= 0
    assert rows["minutes"].to_pylist() == [5.0 + one for one in range(40)]
    assert rows["label_timestamp"][0].as_py() == START + timedelta(minutes=5)
    assert rows["riders"].to_pylist()[:2] == [1, None]
    assert made.facts["quarantined"] == {}


def test_the_same_events_have_the_same_ids_in_other_files_and_in_any_order(take: Any, tmp_path: Path) -> None:
    first = take(write(table_of(), tmp_path / "a.parquet"))
    turned = table_of().take(list(range(39, -1, -1)))

    again = take(write(turned, tmp_path / "b.parquet"))

    assert again.id == first.id


def test_a_key_is_the_same_as_a_number_as_text_and_after_a_float(take: Any, tmp_path: Path) -> None:
    kinds = (pa.int64(), pa.int32(), pa.float64(), pa.string())
    for month, kind in enumerate(kinds):
        table = table_of(start=START + timedelta(days=month))
        stops = table["stop"].cast(kind)
        write(table.set_column(2, "stop", stops), tmp_path / "in" / f"{month}.parquet")
    text = table_of(start=START + timedelta(days=4), stop=[f"{one % 7}.0" for one in range(40)])
    write(text, tmp_path / "in" / "4.parquet")

    made = take(tmp_path / "in")

    assert set(rows_of(made)["stop"].to_pylist()) == {str(one) for one in range(7)}


def test_values_outside_their_range_and_rows_that_break_a_rule_are_quarantined(take: Any, tmp_path: Path) -> None:
    metres = [100.0 + one for one in range(40)]
    metres[:3] = [0.5, 60_000.0, 9_500.0]
    riders: list[Any] = [None] * 40
    riders[5:8] = [-1.0, 1.5, float("nan")]

    made = take(write(table_of(metres=metres, riders=riders), tmp_path / "a.parquet"))

    assert made.facts["quarantined"] == {
        "metres_too_large": 1, "metres_too_small": 1, "riders_negative": 1, "riders_unreadable": 1, "too_fast": 1
    }  # fmt: skip


def test_a_few_events_of_another_year_are_not_days_of_the_snapshot(take: Any, tmp_path: Path) -> None:
    write(table_of(), tmp_path / "in" / "a.parquet")
    write(table_of(2, start=datetime(2009, 1, 1, tzinfo=UTC)), tmp_path / "in" / "b.parquet")
    write(table_of(3, start=START + timedelta(days=1)), tmp_path / "in" / "c.parquet")

    made = take(tmp_path / "in")

    assert made.facts["quarantined"] == {"event_timestamp_stray": 5}
    assert (made.facts["first_day"], made.facts["last_day"]) == ("2021-03-01", "2021-03-01")
    rejected = pq.read_table(tmp_path / "lake" / "quarantine" / made.id)
    assert rejected["reason"].to_pylist() == ["event_timestamp_stray"] * 5


def test_a_stray_day_that_fills_up_becomes_a_day_of_the_snapshot(take: Any, tmp_path: Path) -> None:
    write(table_of(), tmp_path / "in" / "a.parquet")
    write(table_of(3, start=START + timedelta(days=1)), tmp_path / "in" / "b.parquet")
    assert take(tmp_path / "in").facts["last_day"] == "2021-03-01"

    write(table_of(20, start=START + timedelta(days=1, hours=8)), tmp_path / "in" / "c.parquet")
    grown = take(tmp_path / "in")

    assert (grown.facts["last_day"], grown.facts["rows"], grown.facts["quarantined"]) == ("2021-03-02", 63, {})


def test_a_column_that_is_empty_in_one_file_has_the_type_of_the_others(take: Any, tmp_path: Path) -> None:
    table = table_of()
    write(table.append_column("fee", pa.nulls(40)), tmp_path / "in" / "a.parquet")
    later = table_of(start=START + timedelta(days=1))
    write(later.append_column("fee", pa.array([0.5] * 40)), tmp_path / "in" / "b.parquet")

    made = take(tmp_path / "in")

    assert made.facts["carried"] == {"fee": "double"}
    assert rows_of(made)["fee"].null_count == 40


def test_another_rule_of_the_workload_reads_the_source_again(
    take: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(table_of(), tmp_path / "a.parquet")
    before = take(source)
    monkeypatch.setattr(load("rides").schema, "RULES", {"short": "minutes < 10"})

    after = take(source)

    assert before.facts["quarantined"] == {}
    assert after.facts["quarantined"] == {"short": 5}


def test_when_all_ids_are_rejected_the_reasons_are_named(take: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="every row was rejected: metres_too_small 40"):
        take(write(table_of(metres=[0.0] * 40), tmp_path / "a.parquet"))


def test_only_thin_days_at_the_ends_are_no_days() -> None:
    ordinary = dict.fromkeys(range(10, 20), 1000)

    assert edge_days(ordinary, 0.01) == set()
    assert edge_days(ordinary | {14: 1}, 0.01) == set()
    assert edge_days(ordinary | {1: 3, 9: 2, 20: 9, 25: 1}, 0.01) == {1, 9, 20, 25}
    assert edge_days(ordinary | {9: 10}, 0.01) == set()
    assert edge_days(ordinary | {1: 3}, 0.0) == set()
    assert edge_days(dict.fromkeys(range(30), 1) | {40: 1000}, 0.01) == set(range(30))
    assert edge_days({}, 0.5) == set()
