"""Ids of events: the same number at ingest, in SQL, and at the endpoint, in Python."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.event_ids import event_key
from millrace.fields import Kind
from millrace.reading.document import FieldSource, ReadOptions
from millrace.reading.kinds import BUILDERS
from millrace.reading.steps import How, alias

PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=40)
WHOLE = st.integers(-(2**70), 2**70).map(str)


def of_sql(ids: list[str]) -> list[int]:
    how = How.of(FieldSource(column="id"), ReadOptions())
    cast = BUILDERS[Kind.ID]("id", "v", "text", how)
    steps = ", ".join(f'{expression} AS "{name}"' for name, expression in cast.steps)
    with duckdb.connect() as engine:
        engine.execute("CREATE TABLE given (n INTEGER, v VARCHAR)")
        engine.executemany("INSERT INTO given VALUES (?, ?)", list(enumerate(ids)))
        return [
            row[0]
            for row in engine.execute(
                f'SELECT "{alias("id")}" FROM (SELECT n, {steps} FROM given) ORDER BY n'
            ).fetchall()
        ]


@settings(max_examples=20, deadline=None)
@given(st.lists(PLAIN | WHOLE | WHOLE.map(lambda text: text + ".0"), min_size=1, max_size=30))
def test_ingest_and_the_endpoint_make_the_same_number_of_an_id(ids: list[str]) -> None:
    assert of_sql(ids) == [event_key(one) for one in ids]


def test_a_whole_number_stands_for_itself_however_it_is_written() -> None:
    assert {event_key(one) for one in (596, 596.0, "596", " 596 ", "596.0", "+596")} == {596}


def test_texts_stand_for_numbers_that_differ() -> None:
    assert len({event_key(f"tx-{place:05}") for place in range(10_000)}) == 10_000
    assert all(event_key(f"tx-{place}") >= 0 for place in range(100))


@pytest.mark.parametrize("given", ["", "  ", 1.5, float("nan")])
def test_what_is_no_id_is_refused(given: str | float) -> None:
    with pytest.raises(ValueError, match=r"is no id|empty"):
        event_key(given)
