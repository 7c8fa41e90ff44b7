"""Casts: what the columns document says of values, and rows that stay in their order."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from millrace.extended import Extended
from millrace.fields import Field, Kind
from millrace.installed import load
from millrace.reading.casts import FAULT, cast_sql, numbered
from millrace.reading.columns import resolve
from millrace.reading.document import parse

FRAUD = load("fraud").schema


def cast(raw: pa.Table, schema: Any, document: dict[str, Any], *, ordered: bool = True) -> pa.Table:
    shape = resolve(raw.schema, schema, parse(document), "rows.csv")
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        engine.execute(f"SET threads = 4; SET preserve_insertion_order = {ordered}")
        engine.register("raw", numbered(raw))
        return engine.sql(cast_sql(shape, schema, pa.schema([]), "rows.csv")).to_arrow_table()


def events(ids: range) -> pa.Table:
    return pa.table(
        {
            "transaction_id": [str(place) for place in ids],
            "event_timestamp": ["2024-03-04T09:00:00"] * len(ids),
            "customer_id": ["C1"] * len(ids),
            "terminal_id": ["T1"] * len(ids),
            "amount": ["9.50"] * len(ids),
            "is_fraud": ["0"] * len(ids),
        }
    )


def test_rows_come_out_in_the_order_they_came_in_whatever_the_engine_does_with_them() -> None:
    raw = pa.concat_tables([events(range(start, start + 20_000)) for start in range(0, 400_000, 20_000)])

    typed = cast(raw, FRAUD, {}, ordered=False)

    assert typed["transaction_id"].to_pylist() == list(range(400_000))


def test_negative_numbers_are_dropped_where_the_document_says_so_and_the_field_does_not() -> None:
    distance = Field(name="distance", kind=Kind.NUMBER)
    schema = Extended(FRAUD, FIELDS=(*FRAUD.FIELDS, distance))
    raw = events(range(3)).append_column("distance", pa.array(["-1.5", "0", "2"]))

    def faults(negative: str) -> list[str | None]:
        document = {"columns": {"distance": {"column": "distance", "negative": negative}}}
        found: list[str | None] = cast(raw, schema, document)[FAULT].to_pylist()
        return found

    assert faults("drop") == ["distance_negative", None, None]
    assert faults("keep") == faults("turn") == [None, None, None]
