"""Of what is rejected an example is told: row, value, and what a columns document would have to say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from components.ingest.__main__ import main
from components.ingest.refused import examples
from fraud import schema
from millrace.errors import InvalidInput
from millrace.reading.document import EMPTY, parse

FAULTS = [
    ("amount", "1.234,50", "amount_unreadable", "row 4 of events.csv, amount is '1.234,50'.*decimal: ','"),
    ("amount", "12.3456", "amount_too_precise", "amount is '12.3456'.*{…, round: true}"),
    ("amount", "-3.00", "amount_negative", "amount is '-3.00'.*negative: turn"),
    ("is_fraud", "maybe", "is_fraud_not_0_or_1", "is_fraud is 'maybe'.*positive: \\[Y\\]"),
    (
        "event_timestamp",
        "31.12.2018",
        "event_timestamp_unreadable",
        "event_timestamp is '31.12.2018'.*format: '%d.%m.%Y",
    ),
]


@pytest.mark.parametrize(("column", "value", "reason", "told"), FAULTS)
def test_an_example_names_row_value_and_what_would_take_it(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, capsys: Any, column: str, value: str, reason: str, told: str
) -> None:
    events[3][column] = value

    manifest = lake.ingest(csv_of(events, tmp_path / "events.csv"))

    found = examples(lake.folder / "quarantine" / manifest.id, schema, EMPTY)
    assert [one.reason for one in found] == [reason]
    assert re.search(told, str(found[0]))
    assert value in capsys.readouterr().err


def test_a_raw_id_of_a_pseudonymised_entity_is_not_told(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path, capsys: Any
) -> None:
    path = csv_of(events, tmp_path / "events.csv")
    path.write_text(path.read_text() + "99,2018-04-01 09:00:00,secret-card,1,5.00,0,and,more\n")

    manifest = lake.ingest(path)

    assert manifest.facts["quarantined"] == {"malformed_row": 1}
    assert str(examples(lake.folder / "quarantine" / manifest.id, schema, EMPTY)[0]).startswith("row 31 of events.csv")
    assert "secret-card" not in capsys.readouterr().err


def test_where_every_row_is_rejected_the_error_says_why_by_example(
    lake: Any, events: Any, csv_of: Any, tmp_path: Path
) -> None:
    german = [{**row, "amount": row["amount"].replace(".", ",")} for row in events]
    path = csv_of(german, tmp_path / "events.csv", delimiter=";")

    with pytest.raises(InvalidInput, match=r"amount_unreadable 30\b[\s\S]*row 1 of events.csv, amount is '10,50'"):
        lake.ingest(path)
    assert lake.ingest(path, columns={"amount": {"column": "amount", "decimal": ","}}).facts["rows"] == 30


def test_a_mapped_column_is_told_by_its_own_name(lake: Any, events: Any, csv_of: Any, tmp_path: Path) -> None:
    rows = [{("Betrag" if name == "amount" else name): value for name, value in row.items()} for row in events]
    rows[0]["Betrag"] = "much"
    document = {"amount": "Betrag"}

    manifest = lake.ingest(csv_of(rows, tmp_path / "events.csv"), columns=document)

    (found,) = examples(lake.folder / "quarantine" / manifest.id, schema, parse({"columns": document}))
    assert (found.column, found.value, found.row) == ("Betrag", "much", 1)


def test_the_program_shows_an_example_in_its_table(
    events: Any, csv_of: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    events[3]["amount"] = "much"

    assert main([str(csv_of(events, tmp_path / "events.csv"))]) == 0
    assert "much" in capsys.readouterr().out
