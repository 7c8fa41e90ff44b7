"""A quantity without recent events is explained by its workload's own inputs, and shows no history."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.installed import load
from millrace.lookup import unknown_states
from millrace.requests import RequestFormat
from serving.explainer.core import Background, Lengths, attributions, event_of, history_of, value_function
from serving.explainer.model import shapley

TRIPS = load("trips")
NAMES = TRIPS.features.FEATURE_NAMES
ROW = {"trip_id": 7, "event_timestamp": "2021-02-01T08:00:00Z", "pickup_zone": 74, "dropoff_zone": 75}


def score(features, history):
    """Ten minutes for every mile, whatever else."""
    assert history is None
    return features[:, NAMES.index("trip_miles")] * 10


def test_the_effects_add_up_and_every_input_is_shown_in_the_clients_words():
    form = RequestFormat.of(TRIPS)
    requests = form.from_rows([ROW | {"passenger_count": None, "trip_distance": 2.5}], now_us=0)
    event = event_of(requests, unknown_states(TRIPS.features.VIEWS, 1), 0, 0)
    background = Background(np.ones((3, len(NAMES)), np.float32))

    value = value_function(TRIPS, event, background, score, Lengths(0, 0))
    effects, base = shapley(value, len(TRIPS.explain.INPUTS))

    shown = attributions(TRIPS, form, effects, event)
    assert base + effects.sum() == pytest.approx(25, abs=0.1)
    assert shown[0]["input"] == "distance"
    assert shown[0]["effect"] == pytest.approx(15, abs=0.1)
    values = {one["input"]: one["value"] for one in shown}
    said = {part.shows: values[part.name] for part in TRIPS.explain.INPUTS}
    assert (said["pickup_zone"], said["trip_distance"], said["event_timestamp"]) == ("74", 2.5, "2021-02-01T08:00:00Z")
    assert history_of(TRIPS, event) == []
