"""Rows as columns to compute with, and states looked up in the rows of a day."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from rows import readings

from millrace.features.days import DayStates
from millrace.features.events import as_events, key_codes
from millrace.installed import Workload, load
from millrace.instants import DAY_US


def test_an_entity_made_of_others_has_their_ids_joined_and_its_codes_in_their_order(machines: Workload) -> None:
    rows = pa.concat_tables(readings())

    events = as_events(rows, machines.schema, {})

    ids = events.ids["post"].to_pylist()
    assert ids == sorted(ids)
    joined = [f"{machine}|{hall}" for machine, hall in zip(rows["machine"], rows["hall"], strict=True)]
    assert [ids[code] for code in events.column("post")] == joined


def test_an_entity_that_there_is_only_one_of_needs_no_column() -> None:
    trips = load("trips")
    columns = {field.name: pa.nulls(2, field.type) for field in trips.schema.EVENTS}
    columns |= {"pickup_zone": pa.array(["a", "b"]), "dropoff_zone": pa.array(["b", "b"])}

    events = as_events(pa.table(columns), trips.schema, {})

    assert events.column("city").tolist() == [0, 0]
    assert len(events.ids["city"]) == 1
    assert events.ids["pair"].to_pylist() == ["a|b", "b|b"]


@pytest.mark.parametrize("encoded", [False, True])
def test_codes_follow_the_order_of_ids_however_they_are_stored(encoded: bool) -> None:
    keys = pa.chunked_array([["c", "a"], ["b", "c"]])

    codes, ids = key_codes(keys.dictionary_encode() if encoded else keys)

    assert codes.tolist() == [2, 0, 1, 2]
    assert ids.to_pylist() == ["a", "b", "c"]


def test_no_rows_have_no_entities(machines: Workload) -> None:
    events = as_events(machines.schema.EVENTS.empty_table(), machines.schema, {})

    assert len(events) == 0
    assert {name: len(ids) for name, ids in events.ids.items()} == {"machine": 0, "hall": 0, "post": 0}


def test_a_state_holds_from_its_refresh_until_the_entity_s_next() -> None:
    day, hour = 20_000, DAY_US // 24
    states = DayStates(day, 24, np.array([0 * 24, 0 * 24 + 9, 2 * 24]), np.array([[1, 2, 3]]))

    def at(entity: int, after_us: int) -> int:
        return int(states.at(np.array([entity]), np.array([day * DAY_US + after_us]))[0, 0])

    assert [at(0, 0), at(0, 9 * hour - 1), at(0, 9 * hour), at(0, 23 * hour)] == [1, 1, 2, 2]
    assert [at(1, hour), at(2, hour), at(3, hour)] == [0, 3, 0]
