"""The columns document: what it takes, what it refuses, and that a pipeline's JSON says the same as the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from millrace.errors import ConfigError, NotFound
from millrace.installed import load
from millrace.reading.document import ColumnsDocument, merged, parse, read_document
from millrace.reading.fit import require_fit

WHOLE = """
read: {delimiter: ";", decimal: ",", thousands: ".", timezone: Europe/Berlin}
columns:
  transaction_id: {of_row: true}
  event_timestamp: {column: step, unit: hour, start: 2024-01-01}
  customer_id: nameOrig
  terminal_id: {constant: 1}
  amount: {column: amt, minor_units: true, negative: turn}
  is_fraud: {column: fraud, positive: [Y, yes, 1], negative: [N, no, off]}
features:
  mcc: {column: merchant_category, kind: categorical}
aggregates:
  mean_distance_7d: {of: distance, over: customer, stat: mean, window: 7d}
"""


def test_words_that_yaml_takes_for_booleans_and_dates_stay_what_they_are(tmp_path: Path) -> None:
    document = _read(tmp_path, WHOLE)

    label = document.columns["is_fraud"]
    assert label.positive == ("Y", "yes", "1")
    assert label.negative == ("N", "no", "off")
    assert document.columns["event_timestamp"].start == "2024-01-01"
    assert document.columns["customer_id"].column == "nameOrig"


def test_the_parameter_of_a_pipeline_says_what_the_file_says(tmp_path: Path) -> None:
    """KFP makes floats of all numbers on the way."""
    document = _read(tmp_path, WHOLE)

    travelled = json.loads(json.dumps(document.argument()), parse_int=float)

    again = parse(travelled)
    assert again.argument() | {"columns": None} == document.argument() | {"columns": None}
    assert again.columns["is_fraud"] == document.columns["is_fraud"]
    require_fit(again, load("fraud").schema)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"read": {"delimiter": ";;"}}, r"read.delimiter is ';;': wanted one character"),
        ({"read": {"decimal": ",", "thousands": ","}}, "two different marks"),
        ({"read": {"encoding": "latin-99"}}, "latin-99.*a name Python knows"),
        ({"read": {"timezone": "posix/Europe/Berlin"}}, "posix/Europe/Berlin.*IANA name"),
        ({"columns": {"amount": {}}}, "columns.amount: wanted exactly one of column, columns, constant"),
        ({"columns": {"amount": {"column": "a", "cents": True}}}, "columns.amount.cents is True"),
        ({"columns": {"event_timestamp": {"column": "t", "unit": "hour"}}}, "unit and start belong together"),
        ({"aggregates": {"x": {"over": "customer", "stat": "mean", "window": "7d"}}}, "stat mean wants `of`"),
        ({"aggregates": {"x": {"of": "amount", "over": "customer", "stat": "sum", "window": "7w"}}}, "window is '7w'"),
        ({"colums": {}}, "colums"),
    ],
)
def test_a_document_that_is_none_is_refused_by_name(document: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(document)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"columns": {"price": "value"}}, "'price' is none of our columns"),
        ({"columns": {"amount": "a", "terminal_id": "a"}}, r"\['amount', 'terminal_id'\] all come from 'a'"),
        ({"columns": {"amount": {"column": "a", "epoch": "ms"}}}, "a field of kind money has no such option"),
        ({"columns": {"amount": {"column": "a", "negative": ["x"]}}}, "wanted drop, keep or turn"),
        ({"columns": {"amount": {"column": "a", "negative": "keep"}}}, "every amount is at least 0.*drop .* or turn"),
        ({"columns": {"is_fraud": {"column": "a", "negative": "drop"}}}, "wanted the texts of 0"),
        ({"columns": {"amount": {"absent": True}}}, "every event has a amount"),
        ({"features": {"amount": {"kind": "numeric"}}}, "features.amount"),
        ({"features": {"mcc": {"kind": "numeric", "entity": "shop"}}}, "entity is 'shop'; wanted one of"),
        ({"aggregates": {"x": {"over": "shop", "stat": "count", "window": "7d"}}}, "over is 'shop'"),
    ],
)
def test_a_document_that_does_not_fit_the_workload_is_refused(document: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        require_fit(parse(document), load("fraud").schema)


def test_what_is_said_later_wins_key_by_key() -> None:
    document = parse({"read": {"delimiter": ";", "decimal": ","}, "columns": {"amount": "a"}})

    both = merged(document, {"read": {"delimiter": "|"}, "columns": {"terminal_id": "shop"}})

    assert (both.read.delimiter, both.read.decimal) == ("|", ",")
    assert {name: source.column for name, source in both.columns.items()} == {"amount": "a", "terminal_id": "shop"}


def test_a_file_that_is_not_there_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="millrace inspect"):
        read_document(tmp_path / "columns.yaml")


def _read(folder: Path, text: str) -> ColumnsDocument:
    path = folder / "columns.yaml"
    path.write_text(text)
    return read_document(path)
