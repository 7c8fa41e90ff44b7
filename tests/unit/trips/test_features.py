"""What the model reads of a trip: one row and whole days agree, and nothing is known before its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from trip_rows import STEP_US, Trip, request, states_by_hand, table

from millrace.features.days import DayFeatures
from millrace.inputs import States
from millrace.instants import DAY_US, microseconds
from trips import batch, features, online
from trips.zones import BOROUGHS, NO_NUMBER, borough_of, number_of

MONDAY_US = microseconds(datetime.fromisoformat("2021-03-01T00:00:00+00:00"))
ZONES = ("7", "41", "74", "265", "depot")

trips_strategy = st.lists(
    st.builds(
        Trip,
        pickup=st.sampled_from(ZONES),
        dropoff=st.sampled_from(ZONES),
        begin_us=st.integers(0, 40 * 48 * 2).map(lambda quarter: MONDAY_US + quarter * STEP_US // 2),
        seconds=st.sampled_from([60, 600, 900, 1800, 3600]),
        miles=st.sampled_from([0.0, 0.4, 1.25, 8.0]),
        passengers=st.sampled_from([None, 1.0, 4.0]),
    ),
    min_size=1,
    max_size=25,
)


def computed(trips: Sequence[Trip]) -> tuple[NDArray[np.float32], list[DayFeatures]]:
    """Features of the trips by whole days, in the order given."""
    days = [trip.begin_us // DAY_US for trip in trips]
    found = np.full((len(trips), len(features.FEATURE_NAMES)), np.nan, np.float32)
    parts = list(batch.daily(None, batch.events(table(trips)), 0, min(days), max(days)))  # type: ignore[arg-type]
    for part in parts:
        found[part.position] = part.features
    return found, parts


def of_one(trips: Sequence[Trip], trip: Trip) -> NDArray[np.float32]:
    states = States({}, states_by_hand(trips, trip))
    inputs, history = online.model_inputs(request(trip), states, history_length=0, sequence_length=0)
    assert history is None
    return inputs[0]


@settings(deadline=None, max_examples=60)
@given(trips_strategy)
def test_features_of_whole_days_are_those_of_single_requests(trips: list[Trip]) -> None:
    found, _ = computed(trips)

    for trip, row in zip(trips, found, strict=True):
        np.testing.assert_array_equal(row, of_one(trips, trip), str(trip))


@settings(deadline=None, max_examples=30)
@given(trips_strategy, st.integers(0, 24))
def test_how_long_a_trip_takes_changes_nothing_before_it_has_ended(trips: list[Trip], place: int) -> None:
    trip = trips[place % len(trips)]
    slower = replace(trip, seconds=3600)
    others = [slower if other is trip else other for other in trips]

    before, _ = computed(trips)
    after, _ = computed(others)

    for other, row, changed in zip(trips, before, after, strict=True):
        if other.begin_us <= trip.end_us:
            np.testing.assert_array_equal(row, changed)


@pytest.mark.parametrize(("late_us", "seen"), [(-1_000_000, True), (0, False), (1_000_000, False)])
def test_a_trip_that_ends_at_a_refresh_is_seen_by_the_next(late_us: int, seen: bool) -> None:
    refresh_us = MONDAY_US + 20 * STEP_US
    ended = Trip("7", "41", refresh_us - 600_000_000 + late_us, 600)
    asked = Trip("7", "41", refresh_us, 300)
    later = Trip("7", "41", refresh_us + STEP_US, 300)

    _, days = computed([ended, asked, later])

    state, place = days[0].states["pair_state"], list(features.columns("pair")).index("pair_trips_30d")
    counts = state.at(np.zeros(2, np.int64), np.array([asked.begin_us, later.begin_us]))[:, place]
    assert counts.tolist() == [1 if seen else 0, 2]


def test_a_trip_leaves_a_window_when_the_window_has_passed() -> None:
    old = Trip("7", "41", MONDAY_US, 600)
    asked = [Trip("8", "8", MONDAY_US + day * DAY_US + 2 * STEP_US, 60) for day in range(32)]

    _, days = computed([old, *asked])

    place = list(features.columns("pair")).index("pair_trips_30d")
    states = [day.states["pair_state"] for day in days]
    counts = [state.at(np.zeros(1, np.int64), np.array([state.day * DAY_US]))[0, place] for state in states]
    assert counts == [0, *[1] * 30, 0]


def test_a_trip_of_unseen_zones_has_the_paces_of_the_city() -> None:
    city = [Trip("7", "41", MONDAY_US + hour * 2 * STEP_US, 1800) for hour in range(20)]
    asked = Trip("264", "depot", MONDAY_US + 47 * STEP_US, 600)

    row = dict(zip(features.FEATURE_NAMES, of_one(city, asked), strict=True))

    assert row["pickup_pace_30d"] == row["dropoff_pace_30d"] == row["pair_pace_7d"] == pytest.approx(1.0)
    assert row["city_pace_7d"] > 1.1
    assert row["dropoff_number"] == NO_NUMBER


def test_a_trip_without_a_distance_is_taken_for_one_as_long_as_usual_between_its_zones() -> None:
    usual = [Trip("7", "41", MONDAY_US + hour * STEP_US, 900, miles=3.0) for hour in range(40)]
    asked = Trip("7", "41", MONDAY_US + 47 * STEP_US, 600, miles=0.0)

    row = dict(zip(features.FEATURE_NAMES, of_one(usual, asked), strict=True))

    assert row["no_distance"] == 1.0
    assert row["distance_ratio"] == 1.0
    assert row["pair_miles"] == pytest.approx(3.0, abs=0.1)
    assert row["estimated_minutes"] == pytest.approx(row["pair_minutes"], rel=0.2)


def test_an_unknown_number_of_passengers_is_said_apart_from_none() -> None:
    place = features.FEATURE_NAMES.index("no_passengers")
    trip = Trip("7", "41", MONDAY_US, 600, passengers=None)

    assert of_one([], trip)[place] == 1.0
    assert of_one([], replace(trip, passengers=0.0))[place] == 0.0


@pytest.mark.parametrize(
    ("zone", "number", "borough"),
    [
        ("74", 74, "Manhattan"),
        ("1", 1, "Newark Airport"),
        ("265", NO_NUMBER, "Elsewhere"),
        ("x", NO_NUMBER, "Elsewhere"),
    ],
)
def test_a_zone_has_the_borough_that_the_city_says(zone: str, number: int, borough: str) -> None:
    assert number_of(zone) == number
    assert BOROUGHS[borough_of(zone)] == borough
