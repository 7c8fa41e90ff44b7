"""Ingesting again: nothing new costs nothing, something new costs itself, and the result is that of a fresh start."""

from __future__ import annotations

import random
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.ingest.config import IngestConfig
from components.ingest.core import ingest, source_version
from components.ingest.refresh import Refresh
from millrace.errors import InvalidInput
from millrace.reading import delimited
from millrace.reading.delimited import DelimitedReader


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that were cast and checked, one number per batch; filled while the test runs."""
    from components.ingest import intake

    counts: list[int] = []
    original = intake.reasons

    def counting(batch: Any, fields: Any) -> Any:
        counts.append(len(batch))
        return original(batch, fields)

    monkeypatch.setattr(intake, "reasons", counting)
    return counts


def fresh(source: Path, folder: Path, **config: Any) -> Any:
    return ingest(str(source), folder, IngestConfig(workload="fraud", pseudonym_key=b"a key of tests", **config))


def test_the_same_source_again_does_no_work(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = csv_of(events, tmp_path / "events.csv")
    first = lake.ingest(path)
    monkeypatch.setattr(Refresh, "run", lambda *_: pytest.fail("worked again"))

    again = lake.ingest(path)

    assert again == first


def test_a_new_file_is_parsed_alone_and_only_its_day_is_written(
    lake: Any, make: Any, parquet_of: Any, tmp_path: Path, parsed: list[int]
) -> None:
    for day in range(5):
        parquet_of(make(range(10 * day, 10 * day + 10)), tmp_path / "in" / f"{day}.parquet")
    first = lake.ingest(tmp_path / "in")
    before = {path: path.stat().st_mtime_ns for path in lake.partitions()}
    parsed.clear()

    parquet_of(make(range(50, 60)), tmp_path / "in" / "5.parquet")
    second = lake.ingest(tmp_path / "in")

    assert parsed == [10]
    assert second.id != first.id
    assert lake.ids(second) == list(range(60))
    assert len(lake.partitions()) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert second.id == fresh(tmp_path / "in", tmp_path / "fresh").id


def test_lines_appended_to_a_csv_are_parsed_with_their_days_only(
    lake: Any, make: Any, csv_of: Any, tmp_path: Path, parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "SEGMENT_BYTES", 500)  # about one day of ten rows
    path = csv_of(make(range(95)), tmp_path / "events.csv")
    lake.ingest(path)
    parsed.clear()

    whole = csv_of(make(range(110)), tmp_path / "whole.csv")
    shutil.copyfile(whole, path)
    grown = lake.ingest(path)

    assert lake.ids(grown) == list(range(110))
    assert 15 <= sum(parsed) < 50
    assert grown.id == fresh(whole, tmp_path / "fresh").id


def test_a_last_line_that_goes_on_is_read_anew(lake: Any, make: Any, csv_of: Any, tmp_path: Path) -> None:
    path = csv_of(make(range(12)), tmp_path / "events.csv")
    text = path.read_text()
    path.write_text(text[:-3])  # is_fraud of the last row is cut off: ",0\n"
    lake.ingest(path)

    path.write_text(text)

    assert lake.ids(lake.ingest(path)) == list(range(12))


def test_row_groups_that_stay_are_not_parsed_again(
    lake: Any, make: Any, parquet_of: Any, tmp_path: Path, parsed: list[int]
) -> None:
    table = pq.read_table(parquet_of(make(range(60)), tmp_path / "x.parquet"))
    pq.write_table(table.slice(0, 50), tmp_path / "events.parquet", row_group_size=10)
    lake.ingest(tmp_path / "events.parquet")
    parsed.clear()

    pq.write_table(table, tmp_path / "events.parquet", row_group_size=10)
    grown = lake.ingest(tmp_path / "events.parquet")

    assert parsed == [10]
    assert lake.ids(grown) == list(range(60))


def test_rows_that_left_the_source_leave_the_snapshot(lake: Any, make: Any, csv_of: Any, tmp_path: Path) -> None:
    csv_of(make(range(0, 15)), tmp_path / "in" / "a.csv")
    gone = csv_of(make(range(15, 30)), tmp_path / "in" / "b.csv")
    lake.ingest(tmp_path / "in")

    gone.unlink()

    assert lake.ids(lake.ingest(tmp_path / "in")) == list(range(15))


def test_a_late_duplicate_or_contradiction_is_seen_against_finished_days(
    lake: Any, make: Any, csv_of: Any, tmp_path: Path
) -> None:
    rows = make(range(30))
    csv_of(rows, tmp_path / "in" / "a.csv")
    lake.ingest(tmp_path / "in")

    csv_of([rows[5], rows[7] | {"event_timestamp": "2018-04-20 00:00:00"}], tmp_path / "in" / "b.csv")
    second = lake.ingest(tmp_path / "in")
    csv_of([rows[7] | {"event_timestamp": "2018-04-21 00:00:00"}], tmp_path / "in" / "c.csv")
    third = lake.ingest(tmp_path / "in")

    assert second.facts["quarantined"] == {"conflicting_id": 2, "duplicate": 1}
    assert third.facts["quarantined"] == {"conflicting_id": 3, "duplicate": 1}
    assert lake.ids(third) == [*range(7), *range(8, 30)]
    assert third.id == fresh(tmp_path / "in", tmp_path / "fresh").id


def test_the_quarantine_of_what_did_not_change_is_taken_over(
    lake: Any, make: Any, csv_of: Any, tmp_path: Path, parsed: list[int]
) -> None:
    rows = make(range(10))
    csv_of([*rows, rows[1], rows[2] | {"amount": "-1"}, rows[3] | {"amount": "9.00"}], tmp_path / "in" / "a.csv")
    lake.ingest(tmp_path / "in")
    parsed.clear()

    csv_of(make(range(20, 30)), tmp_path / "in" / "b.csv")
    second = lake.ingest(tmp_path / "in")

    assert parsed == [10]
    assert second.facts["quarantined"] == {"amount_negative": 1, "conflicting_id": 2, "duplicate": 1}
    rejected = lake.quarantine(second, "reason, source_row")
    assert rejected == [("conflicting_id", 4), ("duplicate", 11), ("amount_negative", 12), ("conflicting_id", 13)]


def test_a_new_carried_column_makes_every_day_anew(lake: Any, make: Any, csv_of: Any, tmp_path: Path) -> None:
    csv_of(make(range(10)), tmp_path / "in" / "a.csv")
    lake.ingest(tmp_path / "in")

    csv_of([row | {"mcc": "5411"} for row in make(range(10, 20))], tmp_path / "in" / "b.csv")
    second = lake.ingest(tmp_path / "in")

    schemas = {pq.read_schema(path).to_string() for path in second.table("events")}
    assert len(schemas) == 1
    assert second.id == fresh(tmp_path / "in", tmp_path / "fresh").id


def test_another_key_or_zone_is_another_snapshot(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    path = csv_of(events, tmp_path / "events.csv")

    ids = {
        lake.ingest(path).id,
        lake.ingest(path, read={"timezone": "Asia/Tokyo"}).id,
        ingest(str(path), lake.folder, IngestConfig(workload="fraud", pseudonym_key=b"another key")).id,
    }

    assert len(ids) == 3


def test_removed_partitions_and_snapshots_are_made_again(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    rows = [*events, events[0], events[1] | {"amount": "x"}]
    path = csv_of(rows, tmp_path / "events.csv")
    first = lake.ingest(path)

    for part in ("events", "quarantine", "snapshots"):
        shutil.rmtree(lake.folder / part)
        again = lake.ingest(path)
        again.verify()
        assert again.id == first.id
        assert len(lake.quarantine(again, "reason")) == 2


def test_a_failed_ingest_leaves_the_last_snapshot_whole(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    path = csv_of(events, tmp_path / "in" / "a.csv")
    first = lake.ingest(path.parent)
    (tmp_path / "in" / "b.csv").write_bytes(b"")

    with pytest.raises(InvalidInput, match=r"b\.csv"):
        lake.ingest(path.parent)

    first.verify()
    (tmp_path / "in" / "b.csv").unlink()
    assert lake.ingest(path.parent).id == first.id


def test_source_version_follows_the_files(make: Any, csv_of: Any, tmp_path: Path) -> None:
    path = csv_of(make(range(3)), tmp_path / "in" / "a.csv")
    first = source_version(str(tmp_path / "in"))
    assert source_version(str(tmp_path / "in")) == first

    csv_of(make(range(4)), path)

    assert source_version(str(tmp_path / "in")) != first


@pytest.mark.parametrize("seed", range(4))
def test_any_history_of_changes_ends_where_a_fresh_start_does(
    lake: Any, make: Any, csv_of: Any, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files come, grow, change and go; rows repeat, contradict each other and learn their labels."""
    monkeypatch.setattr(delimited, "SEGMENT_BYTES", 700)
    rng = random.Random(seed)
    base = make(range(80))
    folder = tmp_path / "in"
    contents: dict[str, list[dict[str, Any]]] = {"a": rng.sample(base, 20)}
    for step in range(6):
        name = rng.choice("abcd")
        action = rng.choice(["grow", "grow", "replace", "remove"])
        rows = [dict(row) for row in rng.choices(base, k=rng.randint(1, 25))]
        for row in rows:
            if rng.random() < 0.2:
                row |= rng.choice([{"amount": "77.00"}, {"is_fraud": ""}, {"amount": "-1"}, {"customer_id": ""},
                                   {"event_timestamp": "2018-04-05 10:00:00"}])  # fmt: skip
        if action == "remove" and len(contents) > 1:
            contents.pop(name, None)
            (folder / f"{name}.csv").unlink(missing_ok=True)
        else:
            contents[name] = rows if action == "replace" else contents.get(name, []) + rows
        for file, content in contents.items():
            csv_of(content, folder / f"{file}.csv")

        manifest = lake.ingest(folder)

        expected = fresh(folder, tmp_path / f"fresh-{step}")
        assert manifest.facts["quarantined"] == expected.facts["quarantined"]
        assert manifest.id == expected.id
        manifest.verify()
        assert len(lake.quarantine(manifest, "reason, source_row")) == sum(manifest.facts["quarantined"].values())


def test_segments_cover_the_file_and_end_at_line_ends(
    make: Any, csv_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fraud import schema
    from millrace.reading.document import EMPTY
    from millrace.reading.sources import list_files

    monkeypatch.setattr(delimited, "SEGMENT_BYTES", 300)
    rows = [row | {"note": "two\nlines" if row["transaction_id"] % 3 else 'a " in between'} for row in make(range(40))]
    path = csv_of(rows, tmp_path / "events.csv")
    reader = DelimitedReader(list_files(str(path))[0], schema, EMPTY)

    stretches = [(one.segment, [len(raw.table) for raw in one.read()]) for one in reader.scan([])]

    assert len(stretches) > 5
    assert sum(sum(rows) for _, rows in stretches) == 40
    assert all(one.end == other.start for (one, _), (other, _) in pairwise(stretches))
    assert stretches[-1][0].end == path.stat().st_size
