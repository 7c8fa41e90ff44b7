"""What a source may look like: the same rows give the same snapshot, however they are written down."""

from __future__ import annotations

import gzip
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.schema import ALIASES, EVENTS
from millrace.errors import ConfigError, InvalidInput, NotFound, SchemaMismatch
from millrace.pseudonyms import pseudonym

PUBLIC = {ours: public for public, ours in ALIASES.items()}


@pytest.fixture
def expected(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> str:
    """Id of the snapshot of `events`, from a plain CSV."""
    return str(lake.ingest(csv_of(events, tmp_path / "plain" / "events.csv")).id)


def test_a_snapshot_has_the_schema_pseudonyms_and_default_label_times(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path
) -> None:
    manifest = lake.ingest(csv_of(events, tmp_path / "events.csv"))

    table = pq.read_table(manifest.table("events")[0], partitioning=None)
    first = table.slice(0, 1).to_pylist()[0]
    manifest.verify()
    assert table.schema.equals(EVENTS)
    assert first["customer_id"] == pseudonym("0", b"a key of tests")
    assert (first["label_timestamp"] - first["event_timestamp"]).days == 7
    assert manifest.facts["rows"] == 30
    assert (manifest.facts["first_day"], manifest.facts["last_day"]) == ("2018-04-01", "2018-04-03")
    assert list(manifest.facts["tables"]["events"]) == ["2018-04-01", "2018-04-02", "2018-04-03"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_out(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, expected: str, delimiter: str
) -> None:
    assert lake.ingest(csv_of(events, tmp_path / "events.csv", delimiter=delimiter)).id == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_the_encoding_is_found_out(lake: Any, events: Any, csv_of: Any, tmp_path: Path, encoding: str) -> None:
    rows = [row | {"terminal_id": "Café 3"} for row in events]

    manifest = lake.ingest(csv_of(rows, tmp_path / "events.csv", encoding=encoding))

    assert lake.rows(manifest, "DISTINCT transaction_id % 1, terminal_id") == [(0, "Café 3")]


def test_bytes_that_are_not_the_named_encoding_are_an_error(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path
) -> None:
    path = csv_of([row | {"terminal_id": "Café"} for row in events], tmp_path / "events.csv", encoding="latin-1")

    with pytest.raises(InvalidInput, match=r"events\.csv .*--encoding"):
        lake.ingest(path, read={"encoding": "utf-8"})


def test_parquet_csv_public_names_and_any_case_give_the_same_snapshot(
    lake: Any, events: Any, csv_of: Any, parquet_of: Any, tmp_path: Path, expected: str
) -> None:
    public = [{PUBLIC[name].lower(): value for name, value in row.items()} for row in events]

    assert lake.ingest(parquet_of(events, tmp_path / "events.parquet")).id == expected
    assert lake.ingest(csv_of(public, tmp_path / "public.csv")).id == expected


@pytest.mark.parametrize(
    "types",
    [
        {"amount": pa.decimal128(10, 2), "event_timestamp": pa.timestamp("us", tz="UTC")},
        {"amount": pa.decimal128(20, 6), "event_timestamp": pa.timestamp("s")},
        {"amount": pa.float32(), "is_fraud": pa.float64(), "transaction_id": pa.float64()},
        {"is_fraud": pa.bool_(), "transaction_id": pa.uint64(), "customer_id": pa.int32(), "terminal_id": pa.float64()},
        {
            "amount": pa.string(),
            "event_timestamp": pa.string(),
            "is_fraud": pa.string(),
            "customer_id": pa.large_string(),
        },
        {"customer_id": pa.dictionary(pa.int32(), pa.string())},
    ],
)
def test_the_types_people_export_all_mean_the_same(
    lake: Any, events: Any, parquet_of: Any, tmp_path: Path, expected: str, types: dict[str, pa.DataType]
) -> None:
    assert lake.ingest(parquet_of(events, tmp_path / "events.parquet", **types)).id == expected


def test_order_of_rows_columns_and_files_does_not_matter(
    lake: Any, events: Any, csv_of: Any, parquet_of: Any, tmp_path: Path, expected: str
) -> None:
    turned = [dict(reversed(row.items())) for row in events]
    csv_of(turned[20:] + turned[:5], tmp_path / "mixed" / "a.csv")
    parquet_of(events[5:20][::-1], tmp_path / "mixed" / "b.parquet")

    assert lake.ingest(tmp_path / "mixed").id == expected


def test_a_glob_an_fsspec_uri_and_a_compressed_file_are_read(
    lake: Any, events: Any, csv_of: Any, parquet_of: Any, tmp_path: Path, expected: str
) -> None:
    plain = csv_of(events, tmp_path / "deep" / "events.csv")
    (tmp_path / "deep" / "notes.md").write_text("not events")
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    memory = fsspec.filesystem("memory")
    memory.pipe("/ingest-test/events.csv", plain.read_bytes())
    memory.pipe("/ingest-test2/e.parquet", parquet_of(events, tmp_path / "x.parquet").read_bytes())

    for source in (tmp_path / "deep", f"{tmp_path}/d*/*.csv", tmp_path / "packed.csv.gz", "memory://ingest-test/events.csv",
                   "memory://ingest-test2", plain.as_uri()):  # fmt: skip
        assert lake.ingest(source).id == expected


def test_a_column_map_names_what_is_neither_ours_nor_public(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, expected: str
) -> None:
    renamed = [{("value_eur" if name == "amount" else name): value for name, value in row.items()} for row in events]
    path = csv_of(renamed, tmp_path / "events.csv")

    assert lake.ingest(path, columns={"amount": "value_eur"}).id == expected
    with pytest.raises(
        SchemaMismatch, match=r"'amount' is missing; found \[.*'value_eur'.*--column-map value_eur=amount"
    ):
        lake.ingest(path)
    with pytest.raises(SchemaMismatch, match="'valu_eur'"):
        lake.ingest(path, columns={"amount": "value_eur", "terminal_id": "valu_eur"})
    with pytest.raises(ConfigError, match="'price' is none of our columns"):
        lake.ingest(path, columns={"price": "value_eur"})


def test_a_column_that_is_there_twice_is_an_error(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    twice = [row | {"TX_AMOUNT": "1.00"} for row in events]

    with pytest.raises(SchemaMismatch, match=r"'TX_AMOUNT', 'amount'.*both mean 'amount'"):
        lake.ingest(csv_of(twice, tmp_path / "events.csv"))


def test_a_column_of_a_type_that_cannot_be_ours_is_an_error(
    lake: Any, events: Any, parquet_of: Any, tmp_path: Path
) -> None:
    table = pq.read_table(parquet_of(events, tmp_path / "x.parquet"))
    table = table.set_column(1, "event_timestamp", pa.array(range(30)))
    pq.write_table(table, tmp_path / "x.parquet")

    with pytest.raises(SchemaMismatch, match=r"event_timestamp.* is int64; wanted"):
        lake.ingest(tmp_path / "x.parquet")


def test_further_columns_are_carried_along_and_unified_between_files(
    lake: Any, events: Any, csv_of: Any, parquet_of: Any, tmp_path: Path
) -> None:
    parquet_of([row | {"mcc": 7, "TX_FRAUD_SCENARIO": 2} for row in events[:10]], tmp_path / "in" / "a.parquet")
    csv_of([row | {"mcc": "07", "fraud_scenario": "1"} for row in events[10:20]], tmp_path / "in" / "b.csv")
    csv_of(events[20:], tmp_path / "in" / "c.csv")

    manifest = lake.ingest(tmp_path / "in")

    assert manifest.facts["carried"] == {"fraud_scenario": "int8", "mcc": "string"}
    carried = lake.rows(manifest, "transaction_id, fraud_scenario, mcc")
    assert [carried[row] for row in (0, 10, 20)] == [(0, 2, "7"), (10, 1, "07"), (20, None, None)]


def test_carried_columns_may_have_any_type_and_no_name(
    lake: Any, events: Any, csv_of: Any, parquet_of: Any, tmp_path: Path
) -> None:
    table = pq.read_table(parquet_of(events, tmp_path / "x.parquet"))
    odd = {
        "tags": pa.array([["a", "b"]] * 30),
        "place": pa.array([{"lat": 1.5}] * 30),
        "seen": pa.array([datetime(2018, 4, 1)] * 30, pa.timestamp("ns")),
        "price": pa.array([1] * 30, pa.decimal128(30, 4)),
        "bytes": pa.array([b"x"] * 30),
        "wait": pa.array([5] * 30, pa.duration("s")),
        "clock": pa.array([5] * 30, pa.time32("s")),
        "day": pa.array([5] * 30, pa.date64()),
        "quote\"d 'name": pa.array([1] * 30, pa.uint8()),
    }
    for name, column in odd.items():
        table = table.append_column(name, column)
    pq.write_table(table, tmp_path / "x.parquet")

    typed = lake.ingest(tmp_path / "x.parquet")
    unnamed = lake.ingest(csv_of([{"": "7"} | row for row in events], tmp_path / "it's.csv"))

    assert set(typed.facts["carried"]) == set(odd)
    assert lake.rows(typed, "transaction_id, tags, seen, price")[0][1:] == ("[a, b]", datetime(2018, 4, 1), 1)
    assert unnamed.facts["carried"] == {"unnamed_0": "string"}


def test_a_source_that_is_not_there_is_named(lake: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    for source in (tmp_path / "nowhere.csv", tmp_path / "empty", f"{tmp_path}/*.parquet", "memory://nothing/here"):
        with pytest.raises(NotFound, match=str(source).replace("*", r"\*")):
            lake.ingest(source)
    with pytest.raises(InvalidInput, match="carrierpigeon"):
        lake.ingest("carrierpigeon://events")
    assert not lake.snapshots()


def test_a_protocol_whose_package_is_missing_says_so(lake: Any) -> None:
    with pytest.raises(ConfigError, match=r"dropbox.* not installed"):
        lake.ingest("dropbox://nowhere/events.csv")


def test_files_without_rows_are_an_error_unless_another_has_some(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, expected: str
) -> None:
    header_only = csv_of([], tmp_path / "in" / "a.csv")
    with pytest.raises(InvalidInput, match="no rows"):
        lake.ingest(header_only)
    (tmp_path / "zero.csv").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"zero\.csv is empty"):
        lake.ingest(tmp_path / "zero.csv")
    (tmp_path / "zero.parquet").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"zero\.parquet"):
        lake.ingest(tmp_path / "zero.parquet")

    csv_of(events, tmp_path / "in" / "b.csv")

    assert lake.ingest(tmp_path / "in").id == expected


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not parquet"])
def test_a_damaged_parquet_is_named_and_nothing_is_written(
    lake: Any, make: Any, parquet_of: Any, tmp_path: Path, damage: str
) -> None:
    parquet_of(make(range(10)), tmp_path / "in" / "a.parquet")
    path = parquet_of(make(range(10, 3000)), tmp_path / "in" / "b.parquet")
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[500:900] = bytes(400)
    else:
        data = bytearray(b"transaction_id,amount\n1,2\n" * 20)
    path.write_bytes(data)

    with pytest.raises(InvalidInput, match=r"b\.parquet is a truncated or corrupt Parquet"):
        lake.ingest(tmp_path / "in")

    assert not lake.snapshots()
    assert not list(lake.folder.rglob("*.parquet"))


def test_keys_that_went_through_a_float_are_the_keys_they_were(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, expected: str
) -> None:
    through = [row | {name: f"{row[name]}.0" for name in ("customer_id", "terminal_id")} for row in events]

    assert lake.ingest(csv_of(through, tmp_path / "events.csv")).id == expected


def test_line_ends_and_first_lines_that_spreadsheets_write_are_read(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, expected: str
) -> None:
    text = csv_of(events, tmp_path / "events.csv", delimiter=";").read_text()
    written = {
        "mac.csv": text.replace("\n", "\r"),
        "windows.csv": text.replace("\n", "\r\n"),
        "named.csv": "sep=;\n" + text,
        "blank.csv": "\n \n" + text,
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content.encode())

        assert lake.ingest(tmp_path / name).id == expected, name


def test_lines_below_a_first_blank_one_are_appended_to_as_usual(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, expected: str
) -> None:
    path = csv_of(events, tmp_path / "events.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("sep=,\n" + "".join(lines[:21]))
    assert lake.ingest(path).facts["rows"] == 20

    with path.open("a") as stream:
        stream.writelines(lines[21:])

    assert lake.ingest(path).id == expected


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.csv", b"PK\x03\x04 and so on", "zip archive that is cut off"),
        ("b.csv.gz", b"x,y\n1,2\n", "is not what its name says"),
        ("c.csv.gz", b"transaction_id,amount\n1,2\n", "cannot be unpacked"),
        ("d.csv.gz", gzip.compress(bytes(range(256)) * 400, mtime=0)[:-300], "cannot be unpacked, it is cut off"),
        ("e.csv.bz2", b"transaction_id,amount\n1,2\n", "cannot be unpacked"),
        ("f.csv.xz", b"transaction_id,amount\n1,2\n", "cannot be unpacked"),
        ("g.csv", b"\n \n\r\n", "is empty"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named_with_what_it_is(
    lake: Any, tmp_path: Path, name: str, content: bytes, wanted: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(InvalidInput, match=rf"{re.escape(name)}.*{wanted}"):
        lake.ingest(tmp_path / name)


def test_columns_with_names_of_our_own_or_none_are_carried(
    lake: Any, events: Any, csv_of: Any, parquet_of: Any, tmp_path: Path
) -> None:
    ours = {"__day": "7", "__row": "1", "__fault": "x", "__carried_0": "y", "__raw_0": "z", "SEGMENT": "1"}
    typed = pq.read_table(parquet_of([row | ours for row in events], tmp_path / "x.parquet"))
    pq.write_table(typed.append_column("", pa.array(range(30))), tmp_path / "x.parquet")
    wrong = [row | {"": "1"} | ours for row in events]
    wrong[4] = wrong[4] | {"amount": "-1"}

    parquet = lake.ingest(tmp_path / "x.parquet")
    csv = lake.ingest(csv_of(wrong, tmp_path / "y.csv"))

    assert set(parquet.facts["carried"]) == set(ours) | {"unnamed_12"}
    assert lake.rows(parquet, 'transaction_id, "__day", "__carried_0", unnamed_12')[3] == (3, "7", "y", 3)
    assert set(csv.facts["carried"]) == set(ours) | {"unnamed_6"}
    assert csv.facts["quarantined"] == {"amount_negative": 1}
    assert lake.quarantine(csv, '"__fault", "__raw_0"') == [("x", "z")]


def test_a_folder_may_have_brackets_in_its_name(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, expected: str
) -> None:
    path = csv_of(events, tmp_path / "data [2018]" / "events.csv")

    assert lake.ingest(path.parent).id == expected


def test_a_zone_that_only_the_system_knows_is_refused_before_anything_is_read(lake: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timezone is 'posix/Europe/Berlin': wanted an IANA name"):
        lake.ingest(tmp_path / "nowhere.csv", read={"timezone": "posix/Europe/Berlin"})
