"""Labels from files: what is read, what is refused, and that reading twice changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from millrace.errors import InvalidInput, MillraceError
from millrace.event_ids import event_key
from millrace.events.table import read_labels
from serving.prediction_log.labels import checked, load, read, read_csv

NOW = datetime(2018, 10, 10, tzinfo=UTC)
CSV = """\ufefftransaction_id,is_fraud,label_timestamp,analyst
1,1,2018-10-07T00:00:00Z,ann
2,0,2018-10-07 02:00:00+02:00,bob
3,,,
4,true,2018-10-07,eve
"""


def test_a_csv_is_loaded_once_however_often_it_is_given(log: sa.Engine, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(CSV)

    first, again = load(str(path), log, "fraud"), load(path.as_uri(), log, "fraud")

    midnight = datetime(2018, 10, 7, tzinfo=UTC)
    assert (first, again) == ((3, 3), (3, 0))
    assert read_labels(log, "fraud").to_pylist() == [
        {"transaction_id": 1, "is_fraud": 1, "label_timestamp": midnight},
        {"transaction_id": 2, "is_fraud": 0, "label_timestamp": midnight},
        {"transaction_id": 4, "is_fraud": 1, "label_timestamp": midnight},
    ]


def test_parquet_with_the_published_names_and_no_times_is_dated_now(log: sa.Engine, tmp_path: Path) -> None:
    pq.write_table(pa.table({"TRANSACTION_ID": [1, 2], "TX_FRAUD": [0.0, 1.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"TRANSACTION_ID": [1, 2], "TX_FRAUD": [1, 1]}), tmp_path / "b.parquet")

    counts = [
        load(str(tmp_path / name), log, "fraud", NOW + timedelta(days=day))
        for day, name in enumerate(["a.parquet"] * 2)
    ]
    corrected = load(str(tmp_path / "b.parquet"), log, "fraud", NOW + timedelta(days=5))

    assert (counts, corrected) == ([(2, 2), (2, 0)], (2, 1))
    assert read_labels(log, "fraud", NOW)["is_fraud"].to_pylist() == [0, 1]
    assert read_labels(log, "fraud")["is_fraud"].to_pylist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("transaction_id,is_fraud\n1,0\n2,7\n3,x\n", "row 2: 'is_fraud' is '7'; wanted 0 or 1, and 1 rows more"),
        ("transaction_id,is_fraud\n,0\n", "'transaction_id' is None; wanted an id"),
        ("transaction_id,is_fraud\n,0\n", "row 1: 'transaction_id' is None"),
        ("transaction_id,fraud\n1,0\n", "no column 'is_fraud'; they have transaction_id, fraud"),
        ("transaction_id,is_fraud,label_timestamp\n1,0,yesterday\n", "row 1: 'label_timestamp' is 'yesterday'"),
        ("transaction_id,is_fraud,label_timestamp\n1,0,0001-01-01\n", "wanted a year"),
        ("transaction_id,is_fraud\n1\n", "no CSV"),
        ("", "no column 'transaction_id'"),
        ("\xff\xfe\x00", "no column|no CSV"),
    ],
)
def test_a_bad_file_names_its_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)

    with pytest.raises(InvalidInput, match=message):
        checked(read(str(tmp_path / "labels.csv")), "fraud")


@pytest.mark.parametrize("name", ["none.csv", "labels.xlsx", "broken.parquet"])
def test_a_file_that_cannot_be_read_is_an_error_with_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not at all")

    with pytest.raises(MillraceError, match=name):
        read(str(tmp_path / name))


def test_parquet_columns_of_other_types_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="'transaction_id'"):
        checked(pa.table({"transaction_id": [[1]], "is_fraud": [0]}), "fraud")
    with pytest.raises(InvalidInput, match="is_fraud"):
        checked(pa.table({"transaction_id": [1], "is_fraud": [0.5]}), "fraud")
    with pytest.raises(InvalidInput, match="is_fraud"):
        checked(pa.table({"transaction_id": [1], "is_fraud": [[0]]}), "fraud")


def test_an_empty_file_has_no_labels() -> None:
    assert read_csv(b"transaction_id,is_fraud\n", NOW, "fraud") == []


@pytest.mark.parametrize(
    "text",
    ["transaction_id,is_fraud\n1,0.0\n", "transaction_id;is_fraud\n1;0\n", "TRANSACTION_ID,tx_fraud\n1,0\n"],
)
def test_what_ingest_reads_as_a_label_is_read(text: str) -> None:
    (record,) = read_csv(text.encode(), NOW, "fraud")

    assert (record["data"]["event_id"], record["data"]["value"]) == (1, 0.0)


def test_an_id_that_is_text_stands_for_the_number_that_the_endpoint_makes_of_it() -> None:
    table = pa.table({"transaction_id": ["a-17", "18", "19.0"], "is_fraud": ["1", "0", "0"]})

    assert checked(table, "fraud")["event_id"].to_pylist() == [event_key("a-17"), 18, 19]
