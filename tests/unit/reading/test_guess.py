"""Files of strangers: what each column is taken for, and what is asked; then ingest reads them so."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from millrace.cli import main
from millrace.errors import InvalidInput
from millrace.installed import load
from millrace.reading import delimited
from millrace.reading.document import EMPTY, parse, read_document
from millrace.reading.inspect import look, settled

FRAUD = load("fraud")
START = datetime(2024, 3, 4, 9)
N = 60
Row = Mapping[str, Any]


def when(place: int) -> datetime:
    return START + timedelta(hours=7 * place, minutes=13 * place)


def bank(place: int) -> Row:
    amount = f"{1000 + place * 37 % 900},{place % 100:02}"
    return {
        "Buchungs-Nr": 1000 + place,
        "Datum": when(place).strftime("%d.%m.%Y"),
        "Uhrzeit": when(place).strftime("%H:%M"),
        "Kontonummer": f"DE{place % 7:010}",
        "Händler": f"Laden {place % 5}",
        "Betrag (EUR)": f"{amount[:-6]}.{amount[-6:]}",
        "Betrug": "Ja" if place % 20 == 0 else "Nein",
    }


def steps(place: int) -> Row:
    return {
        "step": 1 + place // 3,
        "type": "PAYMENT",
        "amount": 9.5 + place,
        "nameOrig": f"C{place % 7}",
        "oldbalanceOrg": 100.0,
        "nameDest": f"M{place % 5}",
        "isFraud": int(place % 20 == 0),
        "isFlaggedFraud": 0,
    }


def cards(place: int) -> Row:
    return {
        "": place,
        "trans_date_trans_time": when(place).isoformat(" "),
        "cc_num": 4_000_000_000_000_000 + place % 7,
        "merchant": f"fraud_Shop {place % 5}",
        "category": "grocery",
        "amt": 9.25 + place,
        "dob": "1980-01-02",
        "trans_num": f"{place:032x}a",
        "unix_time": int(when(place).timestamp()),
        "is_fraud": int(place % 20 == 0),
    }


def american(place: int) -> Row:
    return {
        "Txn #": 500 + place,
        "Posted": when(place).strftime("%m/%d/%Y %I:%M %p"),
        "Card Number": f"XXXX-{place % 7:04}",
        "Merchant Name": f'"Joe\'s, Shop" {place % 5}',
        "Amt": f"${1000 + place * 31:,}.50",
        "Chargeback": "Yes" if place % 20 == 0 else "No",
    }


def cents(place: int) -> Row:
    return {
        "txn_ref": 900 + place,
        "epoch_ms": int(when(place).timestamp() * 1000),
        "account": place % 7,
        "pos_id": place % 5,
        "amount_cents": 950 + place,
        "status": "fraud" if place % 20 == 0 else "legit",
    }


SHAPES: dict[str, tuple[Callable[[int], Row], str, dict[str, Any]]] = {
    "bank": (bank, ";", {
        "transaction_id": "Buchungs-Nr", "customer_id": "Kontonummer", "terminal_id": "Händler",
        "event_timestamp": {"columns": ["Datum", "Uhrzeit"], "format": "%d.%m.%Y %H:%M"},
        "amount": {"column": "Betrag (EUR)", "decimal": ",", "thousands": "."},
        "is_fraud": {"column": "Betrug", "positive": ["Ja"], "negative": ["Nein"]},
    }),
    "steps": (steps, ",", {
        "transaction_id": {"of_row": True}, "customer_id": "nameOrig", "terminal_id": "nameDest", "is_fraud": "isFraud",
        "event_timestamp": {"column": "step", "unit": "hour", "start": "2024-01-01"},
    }),
    "cards": (cards, ",", {
        "transaction_id": "trans_num", "customer_id": "cc_num", "terminal_id": "merchant", "amount": "amt",
        "event_timestamp": "trans_date_trans_time",
    }),
    "american": (american, ",", {
        "transaction_id": "Txn #", "customer_id": "Card Number", "terminal_id": "Merchant Name",
        "event_timestamp": {"column": "Posted", "format": "%m/%d/%Y %I:%M %p"},
        "amount": {"column": "Amt", "thousands": ","}, "is_fraud": "Chargeback",
    }),
    "cents": (cents, "\t", {
        "transaction_id": "txn_ref", "customer_id": "account", "terminal_id": "pos_id",
        "event_timestamp": {"column": "epoch_ms", "epoch": "ms"},
        "amount": {"column": "amount_cents", "minor_units": True},
        "is_fraud": {"column": "status", "positive": ["fraud"], "negative": ["legit"]},
    }),
}  # fmt: skip


def written(rows: Sequence[Row], path: Path, delimiter: str, encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_a_stranger_s_file_is_read_without_a_word_from_anybody(tmp_path: Path, name: str) -> None:
    make, delimiter, wanted = SHAPES[name]
    path = written([make(place) for place in range(N)], tmp_path / f"{name}.csv", delimiter)

    document, _ = settled(str(path), FRAUD, EMPTY)

    assert parse({"columns": wanted}) == document
    config = IngestConfig(workload="fraud", pseudonym_key=b"a key of tests", columns=document)
    snapshot = ingest(str(path), tmp_path / "lake", config)
    assert (snapshot.facts["rows"], snapshot.facts["quarantined"]) == (N, {})


def test_objects_a_line_are_columns_too(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    rows = [
        {"event_id": f"{place:08x}-77", "created_at": f"{when(place).isoformat()}+02:00", "user_id": f"u-{place % 7}",
         "merchant_id": f"m-{place % 5}", "amount": 5.5 + place, "currency": "EUR", "fraud": place % 20 == 0}
        for place in range(N)
    ]  # fmt: skip
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

    document, lines = settled(str(path), FRAUD, EMPTY)

    assert {name: source.column for name, source in document.columns.items()} == {
        "transaction_id": "event_id", "customer_id": "user_id", "terminal_id": "merchant_id",
        "event_timestamp": "created_at", "is_fraud": "fraud",
    }  # fmt: skip
    assert len(lines) == 5


def test_our_own_names_leave_nothing_to_guess(tmp_path: Path) -> None:
    rows = [
        {"TRANSACTION_ID": place, "TX_DATETIME": when(place).isoformat(), "CUSTOMER_ID": place % 7,
         "TERMINAL_ID": place % 5, "TX_AMOUNT": 5.5, "TX_FRAUD": int(place % 20 == 0)}
        for place in range(N)
    ]  # fmt: skip

    assert settled(str(written(rows, tmp_path / "ours.csv", ",")), FRAUD, EMPTY) == (EMPTY, [])


def test_what_no_column_says_is_asked_with_the_line_that_settles_it(tmp_path: Path) -> None:
    rows = [
        {"Time": 60 * place, "V1": place / 7 - 3, "Amount": 5.5 + place, "Class": int(place % 20 == 0)}
        for place in range(N)
    ]
    path = written(rows, tmp_path / "anonymous.csv", ",")

    with pytest.raises(
        InvalidInput, match=r"leaves 1 to settle.*\n  customer_id: COLUMN.*\nIt has the columns Time, V1"
    ):
        settled(str(path), FRAUD, EMPTY)

    said = parse({"columns": {"customer_id": {"constant": "everybody"}}})
    assert settled(str(path), FRAUD, said)[0].columns["customer_id"].constant == "everybody"


def test_a_file_without_labels_can_be_scored_and_not_trained_on(tmp_path: Path) -> None:
    rows = [{name: value for name, value in cards(place).items() if name != "is_fraud"} for place in range(N)]
    path = written(rows, tmp_path / "unlabelled.csv", ",")

    with pytest.raises(InvalidInput, match="is_fraud: COLUMN"):
        settled(str(path), FRAUD, EMPTY)
    assert "amount" in settled(str(path), FRAUD, EMPTY, labels=False)[0].columns


def test_a_date_that_reads_both_ways_is_asked_about(tmp_path: Path) -> None:
    rows = [
        {**cards(place), "trans_date_trans_time": f"0{1 + place % 9}/0{1 + place % 8}/2024 10:00:00"}
        for place in range(N)
    ]
    for row in rows:
        del row["unix_time"]

    found = look(str(written(rows, tmp_path / "both.csv", ",")), FRAUD, EMPTY).found

    assert [line for line in found.questions if "day or the month first" in line]


def test_what_the_first_rows_leave_open_the_others_settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year in order begins with days and months that read both ways, and without a positive."""
    monkeypatch.setattr(delimited, "_SAMPLE_BYTES", 600)
    rows = [dict(american(place)) | {"Chargeback": "bad" if place == N - 3 else "good"} for place in range(N)]
    path = written(rows, tmp_path / "year.csv", ",")

    document, _ = settled(str(path), FRAUD, EMPTY)

    assert document.columns["event_timestamp"].format == ("%m/%d/%Y %I:%M %p",)
    assert document.columns["is_fraud"].positive == ("bad",)


def test_inspect_writes_a_document_that_a_run_takes_unchanged(tmp_path: Path, capsys: Any) -> None:
    path = written([bank(place) for place in range(N)], tmp_path / "bank.csv", ";", "latin-1")
    target = tmp_path / "columns.yaml"

    assert main(["inspect", str(path), "--write", str(target), "--workload", "fraud"]) == 0
    assert "Kontonummer" in capsys.readouterr().out
    assert read_document(target).columns == settled(str(path), FRAUD, EMPTY)[0].columns
    assert set(yaml.safe_load(target.read_text(encoding="utf-8"))) == {"columns"}

    assert main(["inspect", str(path), "--write", str(target), "--workload", "fraud"]) == 2
    assert "there already" in capsys.readouterr().err
    assert main(["inspect", str(path), "--json", "--workload", "fraud"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["to_settle"] == []
