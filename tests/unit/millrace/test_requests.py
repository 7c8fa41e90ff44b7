"""Requests of any workload: fields with kinds and bounds, and ids that are composed of others or constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.errors import InvalidInput
from millrace.event_ids import event_key
from millrace.fields import Entity, Field, Kind
from millrace.installed import load
from millrace.requests import RequestFormat

FORMAT = RequestFormat(
    "ride_id",
    (
        Entity("from", "from_id"),
        Entity("to", "to_id"),
        Entity("way", "way_id", parts=("from", "to")),
        Entity("town", "town", constant="here"),
    ),
    (
        Field(name="people", kind=Kind.WHOLE, minimum=0, maximum=9, empty=True),
        Field(name="km", kind=Kind.NUMBER, minimum=0, maximum=100),
        Field(name="sort", kind=Kind.TEXT, empty=True),
        Field(name="night", kind=Kind.CLASS, empty=True),
        Field(name="fee", kind=Kind.MONEY, empty=True),
        Field(name="line", kind=Kind.KEY, empty=True),
        Field(name="booked", kind=Kind.INSTANT, empty=True),
    ),
    strict=True,
)


def row(**changes: Any) -> dict[str, Any]:
    base = {"ride_id": 1, "event_timestamp": "2021-02-01T08:00:00Z", "from_id": 74, "to_id": "75.0", "km": 2.5}
    return {name: value for name, value in (base | changes).items() if value is not ...}


def test_ids_that_follow_from_others_are_not_asked_for():
    found = FORMAT.from_rows([row(), row(ride_id=2, from_id="a")], now_us=0)

    keys = FORMAT.keys(found, pseudonym=str)

    assert FORMAT.names[:4] == ("ride_id", "event_timestamp", "from_id", "to_id")
    assert FORMAT.names[4:] == tuple(field.name for field in FORMAT.fields)
    assert keys["way"] == ["74|75", "a|75"]
    assert keys["town"] == ["here", "here"]


def test_only_ids_of_pseudonymised_entities_become_pseudonyms():
    secret = RequestFormat("id", (Entity("who", "who_id", pseudonymised=True), Entity("where", "where_id")), ())
    found = secret.from_rows([{"id": 1, "who_id": "me", "where_id": "home"}], now_us=0)

    assert secret.keys(found, pseudonym=str.upper) == {"who": ["ME"], "where": ["home"]}


def test_what_is_left_out_is_kept_as_nothing_and_shown_as_null():
    found = FORMAT.from_rows([row(people=3, sort="van", night=1, fee=2.29), row(ride_id=2, people=None)], now_us=0)

    np.testing.assert_array_equal(found.values["people"], [3.0, np.nan])
    said = {"people": 3, "km": 2.5, "sort": "van", "night": 1, "fee": 2.29}
    assert FORMAT.shown(found, 0) == said | {"line": None, "booked": None}
    nothing = {"people": None, "km": 2.5, "sort": None, "night": None, "fee": None, "line": None, "booked": None}
    assert FORMAT.shown(found, 1) == nothing


def test_a_missing_optional_column_is_absent_in_every_row():
    columns = {"ride_id": [1, 2], "from_id": ["a", "b"], "to_id": ["c", "d"], "km": [1.0, 2.0]}

    found = FORMAT.from_columns(columns, now_us=7)

    assert found.event_us.tolist() == [7, 7]
    assert np.isnan(found.values["people"]).all()


@pytest.mark.parametrize(("value", "level"), [(596, "596"), ("596.0", "596"), (" a ", "a"), (True, "true"), ("", "")])
def test_a_level_is_the_same_however_it_is_written(value: Any, level: str) -> None:
    found = FORMAT.from_rows([row(line=value)], now_us=0)

    assert found.values["line"].tolist() == [level]
    assert FORMAT.shown(found, 0)["line"] == (level or None)


def test_an_instant_is_microseconds_and_shown_as_it_was_written() -> None:
    found = FORMAT.from_rows([row(booked="1970-01-01T01:00:01+01:00"), row(ride_id=8, booked="")], now_us=0)

    assert found.values["booked"][0] == 1_000_000
    assert np.isnan(found.values["booked"][1])
    assert FORMAT.shown(found, 0)["booked"] == "1970-01-01T00:00:01+00:00"


@pytest.mark.parametrize("word", [True, 1, 1.0])
def test_a_class_takes_the_words_of_json(word: Any) -> None:
    assert FORMAT.from_rows([row(night=word)], now_us=0).values["night"].tolist() == [1]


def test_a_further_field_is_passed_over_unless_the_format_is_strict() -> None:
    lenient = RequestFormat(FORMAT.event_id, FORMAT.entities, FORMAT.fields)

    assert len(lenient.from_rows([row(way_id="74|75")], now_us=0)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"people": 1.5}, "row 0: field 'people' is 1.5; wanted a whole number"),
        ({"people": 10}, "field 'people' is 10; wanted a number from 0 to 9"),
        ({"km": None}, "field 'km' is None; wanted a number from 0 to 100"),
        ({"km": ...}, "row 0: field 'km' is missing"),
        ({"km": float("nan")}, "field 'km' is nan"),
        ({"sort": 5}, "field 'sort' is 5; wanted text of at most 128 characters"),
        ({"night": 2}, "field 'night' is 2; wanted a number from 0 to 1"),
        ({"fee": 2.295}, "field 'fee' is 2.295; wanted at most two decimals"),
        ({"way_id": "74|75"}, "unknown field 'way_id'; wanted ride_id, event_timestamp, from_id"),
        ({"from_id": None}, "field 'from_id' is None; wanted text of 1 to 128 characters"),
        ({"line": [4]}, r"field 'line' is \[4\]; wanted text of 1 to 128 characters, or a number"),
        ({"booked": "monday"}, "field 'booked' is 'monday'; wanted ISO 8601"),
    ],
)
def test_a_refusal_names_row_field_got_and_wanted(changes, message):
    with pytest.raises(InvalidInput, match=message):
        FORMAT.from_rows([row(**changes)], now_us=0)


def test_an_id_that_is_no_whole_number_is_kept_as_the_client_wrote_it() -> None:
    uuid = "0b54a6f0-6e4c-4d43-9d7a-6a2f7c6a7a10"
    form = RequestFormat.of(load("fraud"))
    rows = [
        {"transaction_id": name, "customer_id": "c", "terminal_id": "t", "amount": 5.0}
        for name in (uuid, "17", " 18.0 ")
    ]

    found = form.from_rows(rows, now_us=0)

    assert found.ids == [uuid, "17", " 18.0 "]
    assert found.event_id.tolist() == [event_key(uuid), 17, 18]
    assert found.part(0, 1).ids == [uuid]
    assert found.joined([found.part(1, 2), found.part(0, 1)]).ids == ["17", uuid]


def test_an_id_of_one_event_twice_is_refused_however_it_is_written() -> None:
    form = RequestFormat.of(load("fraud"))
    rows = [{"transaction_id": name, "customer_id": "c", "terminal_id": "t", "amount": 5.0} for name in ("17", 17)]

    with pytest.raises(InvalidInput, match="twice in one request"):
        form.from_rows(rows, now_us=0)
