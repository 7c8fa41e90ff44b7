"""Rows that are not what they should be: each goes to quarantine, whole, with its reason."""

from __future__ import annotations

import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millrace.errors import InvalidInput

BAD = [
    ({"transaction_id": ""}, "transaction_id_missing"),
    ({"event_timestamp": ""}, "event_timestamp_missing"),
    ({"event_timestamp": "01/04/2018 12:00"}, "event_timestamp_unreadable"),
    ({"event_timestamp": "2018-02-30 12:00:00"}, "event_timestamp_unreadable"),
    ({"event_timestamp": "infinity"}, "event_timestamp_unreadable"),
    ({"event_timestamp": "1018-04-01 12:00:00"}, "event_timestamp_out_of_range"),
    ({"event_timestamp": "2200-01-01 00:00:00"}, "event_timestamp_out_of_range"),
    ({"event_timestamp": "12018-04-01T00:00:00Z"}, "event_timestamp_out_of_range"),
    ({"customer_id": " "}, "customer_id_missing"),
    ({"terminal_id": ""}, "terminal_id_missing"),
    ({"amount": ""}, "amount_missing"),
    ({"amount": "-0.01"}, "amount_negative"),
    ({"amount": "twelve"}, "amount_unreadable"),
    ({"amount": "nan"}, "amount_unreadable"),
    ({"amount": "12,50"}, "amount_unreadable"),
    ({"amount": "1_000"}, "amount_unreadable"),
    ({"amount": "12.345"}, "amount_too_precise"),
    ({"amount": "10000000000.00"}, "amount_too_large"),
    ({"amount": "1e30"}, "amount_too_large"),
    ({"is_fraud": "2"}, "is_fraud_not_0_or_1"),
    ({"is_fraud": "perhaps"}, "is_fraud_not_0_or_1"),
    ({"label_timestamp": "2018-04-01 00:00:00"}, "label_before_event"),
    ({"label_timestamp": "soon"}, "label_timestamp_unreadable"),
    ({"label_timestamp": "9999-12-31 00:00:00"}, "label_timestamp_out_of_range"),
]


@pytest.mark.parametrize(("change", "reason"), BAD, ids=[f"{next(iter(c.items()))} {r}" for c, r in BAD])
def test_a_bad_value_is_quarantined_with_its_reason(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    rows = [row | {"label_timestamp": ""} for row in events]
    rows[25] |= change

    manifest = lake.ingest(csv_of(rows, tmp_path / "events.csv"))

    assert manifest.facts["quarantined"] == {reason: 1}
    assert lake.ids(manifest) == [*range(25), *range(26, 30)]
    name, value = next(iter(change.items()))
    (found,) = lake.quarantine(manifest, f"reason, source_file, source_row, terminal_id, {name}")
    assert found[:3] == (reason, str(tmp_path / "events.csv"), 26)
    assert (found[4] or "") == value


@pytest.mark.parametrize(
    ("name", "kind", "values", "reason"),
    [
        ("amount", pa.float64(), [float("nan"), None], "amount_missing"),
        ("amount", pa.float64(), [float("inf"), float("-inf")], "amount_unreadable"),
        ("amount", pa.float64(), [1e11, 1e300], "amount_too_large"),
        ("amount", pa.decimal128(20, 2), [10**11, 10**12], "amount_too_large"),
        ("amount", pa.int64(), [-1, -5], "amount_negative"),
        ("transaction_id", pa.float64(), [1.5, 2.0**60], "transaction_id_unreadable"),
        ("transaction_id", pa.uint64(), [2**64 - 1, 2**63], "transaction_id_unreadable"),
        ("is_fraud", pa.float64(), [0.5, 300.0], "is_fraud_not_0_or_1"),
        ("is_fraud", pa.int64(), [-1, 10**12], "is_fraud_not_0_or_1"),
        ("terminal_id", pa.null(), None, "terminal_id_missing"),
    ],
)
def test_bad_typed_values_are_quarantined_too(
    lake: Any, events: Any, parquet_of: Any, tmp_path: Path, name: str, kind: Any, values: Any, reason: str
) -> None:
    good = parquet_of(events[:20], tmp_path / "in" / "a.parquet")
    table = pq.read_table(parquet_of(events[20:22], tmp_path / "in" / "b.parquet"))
    column = pa.array(values or [None, None], kind)
    table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, tmp_path / "in" / "b.parquet")

    manifest = lake.ingest(good.parent)

    assert manifest.facts["quarantined"] == {reason: 2}
    assert manifest.facts["rows"] == 20


def test_a_line_with_another_number_of_fields_is_kept_as_it_is(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path
) -> None:
    path = csv_of(events, tmp_path / "events.csv")
    lines = path.read_text().splitlines()
    lines[3] += ",surplus"
    lines[5] = "4,2018-04-01"
    path.write_text("\n".join(lines))

    manifest = lake.ingest(path)

    assert manifest.facts["quarantined"] == {"malformed_row": 2}
    assert lake.quarantine(manifest, "source_row, raw_line") == [(3, lines[3]), (5, lines[5])]
    assert lake.ids(manifest) == [0, 1, 3, *range(5, 30)]


def test_delimiters_and_line_ends_inside_quotes_belong_to_the_value(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path
) -> None:
    rows = [row | {"note": 'says "a,\nb"' if row["transaction_id"] % 2 else ""} for row in events]

    manifest = lake.ingest(csv_of(rows, tmp_path / "events.csv"))

    assert manifest.facts["rows"] == 30
    assert lake.rows(manifest, "transaction_id, note")[1] == (1, 'says "a,\nb"')


def test_of_repeated_rows_one_is_kept_across_files(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    csv_of(events + events[4:6], tmp_path / "in" / "a.csv")
    csv_of(events[5:7], tmp_path / "in" / "b.csv")

    manifest = lake.ingest(tmp_path / "in")

    assert lake.ids(manifest) == list(range(30))
    assert manifest.facts["quarantined"] == {"duplicate": 4}


def test_a_row_that_learned_its_label_replaces_the_one_that_had_none(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path
) -> None:
    unknown = [row | {"is_fraud": ""} for row in events]
    csv_of(unknown, tmp_path / "in" / "a.csv")
    csv_of([events[10] | {"is_fraud": "1"}], tmp_path / "in" / "b.csv")

    manifest = lake.ingest(tmp_path / "in")

    assert manifest.facts["quarantined"] == {"superseded_label": 1}
    labels = lake.rows(manifest, "transaction_id, is_fraud, label_timestamp")
    assert labels[10] == (10, 1, datetime.fromisoformat("2018-04-09 08:00:00+00:00"))
    assert labels[11] == (11, None, None)


def test_of_rows_that_contradict_each_other_none_is_kept(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    other_amount = events[3] | {"amount": "99.99"}
    other_day = events[4] | {"event_timestamp": "2018-04-03 12:00:00"}

    manifest = lake.ingest(csv_of([*events, other_amount, other_day], tmp_path / "events.csv"))

    assert manifest.facts["quarantined"] == {"conflicting_id": 4}
    assert lake.ids(manifest) == [0, 1, 2, *range(5, 30)]
    assert {row[0] for row in lake.quarantine(manifest, "CAST(transaction_id AS INT)")} == {3, 4}


def test_times_with_an_offset_are_converted_and_naive_ones_are_utc(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path
) -> None:
    stamps = [
        "2018-04-01T10:00:00+02:00",
        "2018-04-01 08:00:00Z",
        "2018-04-01 08:00:00",
        "2018-04-01 10:00:00.000+0200",
    ]
    rows = [row | {"event_timestamp": stamp} for row, stamp in zip(events, stamps, strict=False)]

    manifest = lake.ingest(csv_of(rows, tmp_path / "events.csv"))

    found = lake.rows(manifest, "transaction_id, CAST(event_timestamp AS VARCHAR)")
    assert [stamp for _, stamp in found] == ["2018-04-01 08:00:00+00"] * 4


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_local_times_are_converted_and_those_the_clocks_skipped_or_doubled_are_quarantined(
    lake: Any, events: Any, csv_of: Any, parquet_of: Any, tmp_path: Path, format: str
) -> None:
    stamps = ["2018-07-01 10:00:00", "2018-12-01 09:00:00", "2018-03-25 02:30:00", "2018-10-28 02:30:00"]
    rows = [row | {"event_timestamp": stamp} for row, stamp in zip(events, stamps, strict=False)]
    path = (csv_of if format == "csv" else parquet_of)(rows, tmp_path / f"events.{format}")

    manifest = lake.ingest(path, read={"timezone": "Europe/Berlin"})

    assert manifest.facts["quarantined"] == {
        "event_timestamp_ambiguous_local_time": 1,
        "event_timestamp_nonexistent_local_time": 1,
    }
    stamps_found = [row[1] for row in lake.rows(manifest, "transaction_id, CAST(event_timestamp AS VARCHAR)")]
    assert stamps_found == ["2018-07-01 08:00:00+00", "2018-12-01 08:00:00+00"]


def test_an_offset_wins_over_the_named_zone(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    rows = [events[0] | {"event_timestamp": "2018-07-01T10:00:00Z"}]

    manifest = lake.ingest(csv_of(rows, tmp_path / "events.csv"), read={"timezone": "Europe/Berlin"})

    assert lake.rows(manifest, "transaction_id, CAST(event_timestamp AS VARCHAR)") == [(0, "2018-07-01 10:00:00+00")]


def test_a_label_time_without_a_label_is_forgotten(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    rows = [row | {"is_fraud": "", "label_timestamp": "2018-05-01 00:00:00"} for row in events]
    rows[3]["label_timestamp"] = "9999-12-31 00:00:00"  # what some exports write for "not known yet"

    manifest = lake.ingest(csv_of(rows, tmp_path / "events.csv"))

    assert manifest.facts["quarantined"] == {}
    assert set(lake.rows(manifest, "transaction_id * 0, is_fraud, label_timestamp")) == {(0, None, None)}


def test_when_every_row_is_bad_nothing_is_written(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    path = csv_of([row | {"amount": "-1"} for row in events], tmp_path / "events.csv")

    with pytest.raises(InvalidInput, match="every row was rejected: amount_negative 30"):
        lake.ingest(path)

    assert not lake.snapshots()
    assert not list(lake.folder.rglob("*.parquet"))


def test_only_the_owner_reads_the_quarantine_and_no_other_file_holds_a_raw_customer(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path
) -> None:
    rows = [row | {"customer_id": "raw-customer-id"} for row in events]
    rows[0]["amount"] = "-1"

    manifest = lake.ingest(csv_of(rows, tmp_path / "events.csv"))

    folder = lake.folder / "quarantine" / manifest.id
    assert lake.quarantine(manifest, "customer_id") == [("raw-customer-id",)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {row[1] for row in lake.rows(manifest, "transaction_id, customer_id")}.isdisjoint({"raw-customer-id"})
    others = [path for path in lake.folder.rglob("*") if path.is_file() and folder not in path.parents]
    assert not any(b"raw-customer-id" in path.read_bytes() for path in others)
