"""Bad days change what they say and what follows from it; reasons change one thing; slices find their rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from trip_rows import STEP_US, Trip, request, states_by_hand

from millrace.inputs import States
from millrace.instants import DAY_US
from trips import explain, judging, online
from trips import formulas as f
from trips.features import FEATURE_NAMES, VIEWS
from trips.whatif import STRESSES, Inputs

MONDAY_US = 18_687 * DAY_US


def history() -> list[Trip]:
    """Slow trips from zone 7 to zone 41 all day, and quick ones elsewhere."""
    slow = [Trip("7", "41", MONDAY_US + step * STEP_US, 1700, miles=2.0) for step in range(30)]
    quick = [Trip("74", "75", MONDAY_US + step * STEP_US, 400, miles=2.0) for step in range(30)]
    return slow + quick


def asked(miles: float = 3.0) -> Trip:
    return Trip("7", "41", MONDAY_US + 40 * STEP_US, 900, miles=miles)


def features_of(trip: Trip, states: dict[str, NDArray[np.int64]] | None = None) -> NDArray[np.float32]:
    states = states_by_hand(history(), trip) if states is None else states
    return online.model_inputs(request(trip), States({}, states), history_length=0, sequence_length=0)[0]


def nothing() -> dict[str, NDArray[np.int64]]:
    return {view.name: np.zeros((1, len(view.fields)), np.int64) for view in VIEWS}


def test_no_state_is_what_the_transformer_makes_of_an_empty_store() -> None:
    trip = asked()
    inputs = Inputs(np.array([15.0], np.float32), features_of(trip))

    changed, _ = STRESSES["no_state"](inputs).tensors(0)

    np.testing.assert_allclose(changed, features_of(trip, nothing()), rtol=1e-5)


def test_no_zone_state_keeps_the_city() -> None:
    trip = asked()
    states = states_by_hand(history(), trip)
    city_alone = nothing() | {"city_state": states["city_state"]}
    inputs = Inputs(np.array([15.0], np.float32), features_of(trip, states))

    changed, _ = STRESSES["no_zone_state"](inputs).tensors(0)

    np.testing.assert_allclose(changed, features_of(trip, city_alone), rtol=1e-5)


def test_a_zone_never_seen_is_asked_for_as_such() -> None:
    trip = asked()
    unseen = Trip("nowhere", "41", trip.begin_us, 900, miles=3.0)
    inputs = Inputs(np.array([15.0], np.float32), features_of(trip))

    changed, _ = STRESSES["zone_never_seen"](inputs).tensors(0)

    own = features_of(unseen)
    same = [FEATURE_NAMES.index(name) for name in ("pickup_number", "pickup_borough", *f.PICKUP_PACES, "pair_pace_7d")]
    np.testing.assert_allclose(changed[:, same], own[:, same], rtol=1e-5)


def test_a_slower_city_takes_longer_and_says_so_within_the_day() -> None:
    inputs = Inputs(np.array([15.0], np.float32), features_of(asked()))

    slower, unseen = STRESSES["city_slower_by_a_third"](inputs), STRESSES["city_slower_unseen"](inputs)

    assert slower.label == unseen.label == pytest.approx([20.0])
    assert slower.column("city_pace_1h") == pytest.approx(inputs.column("city_pace_1h") * 4 / 3)
    np.testing.assert_array_equal(unseen.features, inputs.features)


def test_every_stress_leaves_the_rows_that_it_was_given() -> None:
    inputs = Inputs(np.array([15.0], np.float32), features_of(asked()))
    before = inputs.features.copy()

    for stress in STRESSES.values():
        changed, _ = stress(inputs).tensors(0)
        assert changed.shape == before.shape
        assert np.isfinite(changed).all()

    np.testing.assert_array_equal(inputs.features, before)


def test_each_reason_changes_its_own_features_and_what_follows_from_them() -> None:
    trip = asked()
    states = States({}, states_by_hand(history(), trip))
    plain = features_of(trip)

    changed, _ = explain.variants(request(trip), states, history_length=0, sequence_length=0)

    found = {
        group: {FEATURE_NAMES[place] for place in np.flatnonzero(row != plain[0])}
        for group, row in zip(explain.GROUPS, changed, strict=True)
    }
    assert found["distance"] == {"trip_miles", "distance_ratio", "expected_minutes", "estimated_minutes"}
    assert found["time_of_day"] == {"hour"}
    assert found["pickup_zone"] == {name for name in f.PICKUP_PACES if plain[0, FEATURE_NAMES.index(name)] != 1}
    assert "estimated_minutes" in found["pair_of_zones"]
    assert found["city_now"] <= set(f.FRESH_PACES)


def test_whole_explanations_divide_known_features() -> None:
    for part in explain.INPUTS:
        assert set(part.features) <= set(FEATURE_NAMES)
        assert set(part.fields.values()) <= set(FEATURE_NAMES)


def test_slices_find_boroughs_hours_and_distances() -> None:
    trips = [asked(0.5), asked(20.0)]
    rows = pa.table({"pickup_zone": ["7", "x"]})

    masks = judging.slices(rows, np.concatenate([features_of(trip) for trip in trips]))

    assert masks["borough_queens"].tolist() == [True, False]
    assert masks["borough_elsewhere"].tolist() == [False, True]
    assert masks["hour_late"].tolist() == [True, True]
    assert masks["miles_under_1"].tolist() == [True, False]
    assert masks["miles_over_10"].tolist() == [False, True]


def test_the_mean_of_a_pair_is_learned_from_training_rows_alone() -> None:
    ends = pa.table({"pickup_zone": ["7", "7", "7", "8", "7"], "dropoff_zone": ["41", "41", "41", "41", "41"]})
    data = SimpleNamespace(
        label=np.array([10, 20, 30, 6, 999], np.float32),
        rows_of=lambda split: np.arange(4) if split == "train" else np.arange(4, 5),
        table=lambda columns: ends.select(columns),
    )

    found = judging.pair_mean(data, np.array([4, 3]))

    assert found == pytest.approx([(60 + 3 * 16.5) / 6, (6 + 3 * 16.5) / 4])
