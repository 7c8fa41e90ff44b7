"""Features from trips and the states of their zones: the one code that batch, serving and the skew check run.

B trips as columns. Sums are integers, so that every path has the same ones. A pace of few trips is drawn towards what
is known without them: it is as if some more trips had been that fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.instants import DAY_US
from trips.features import FEATURE_NAMES, STATE_FEATURES, VIEWS, ZONE_FEATURES

METRES_PER_MILE: Final = 1609.344
HOUR_US: Final = 3_600_000_000

TYPICAL_SECONDS: Final = 600
"""Expected seconds of a trip that is made up to draw a pace towards another."""
CITY_WEIGHTS: Final = {"30d": 20, "7d": 50, "24h": 50, "3h": 30, "1h": 20, "30m": 10}
ZONE_WEIGHTS: Final = {"30d": 8, "7d": 10, "24h": 8, "3h": 5}
PAIR_WEIGHTS: Final = {"30d": 3, "7d": 5}
"""How many such trips a window's pace is drawn with."""
PAIR_TRIPS: Final = 2
"""How many such trips a pair's mean distance and duration are drawn with, towards what its two zones let expect."""
USUAL_METRES, USUAL_SECONDS = 4000, 900
"""A trip of a zone that nobody has seen."""

CITY_PACES: Final = tuple(name for name in STATE_FEATURES if name.startswith("city_pace"))
PICKUP_PACES: Final = tuple(name for name in STATE_FEATURES if name.startswith("pickup_pace"))
DROPOFF_PACES: Final = tuple(name for name in STATE_FEATURES if name.startswith("dropoff_pace"))
FRESH_PACES: Final = ("city_pace_24h", "city_pace_3h", "city_pace_1h", "city_pace_30m")
UNSEEN_PAIR: Final = {
    "pair_pace_30d": 1.0,
    "pair_pace_7d": 1.0,
    "pair_miles": USUAL_METRES / METRES_PER_MILE,
    "pair_minutes": USUAL_SECONDS / 60,
}
"""What is thought of a pair of zones of which nothing is known."""
DERIVED_FROM: Final = ("trip_miles", "no_distance", "pair_miles", "pair_pace_30d", "city_pace_7d")

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trips:
    """What is known of B trips when they begin."""

    event_us: Integers
    metres: Integers
    """0: the meter gave none."""
    passengers: Floats
    """NaN where unknown."""
    pickup_number: Integers
    dropoff_number: Integers
    pickup_borough: Integers
    dropoff_borough: Integers
    same_zone: NDArray[np.bool_]


def metres_of(miles: Floats) -> Integers:
    """[B] miles → [B] whole metres."""
    metres: Integers = np.rint(miles * METRES_PER_MILE).astype(np.int64)
    return metres


def expected_seconds(metres: Integers) -> Integers:
    """[B] → [B] about how long trips take in this city by distance alone, so that paces of any mix of trips compare."""
    seconds: Integers = np.rint(120 + 4.2 * np.maximum(metres, 200) ** 0.63).astype(np.int64)
    return seconds


def features(trips: Trips, states: Mapping[str, Integers]) -> NDArray[np.float32]:
    """B trips, and by view the states [B, fields] of their entities → [B, F] in the order of FEATURE_NAMES.

    An entity without state is a row of zeros.
    """
    known = {name: states[view.name][:, place] for view in VIEWS for place, name in enumerate(view.fields)}
    found = _request_features(trips) | _zone_features(trips) | _state_features(trips, known)
    return np.stack([np.asarray(found[name], np.float32) for name in FEATURE_NAMES], axis=1)


def but(features: NDArray[np.float32], changes: Mapping[str, Any]) -> NDArray[np.float32]:
    """features[B, F] with the changed ones, and what follows from them."""
    features = features.copy()
    for name, value in changes.items():
        features[:, FEATURE_NAMES.index(name)] = value
    known = {name: features[:, FEATURE_NAMES.index(name)].astype(np.float64) for name in DERIVED_FROM}
    for name, values in derived(known).items():
        features[:, FEATURE_NAMES.index(name)] = values
    return features


def _request_features(trips: Trips) -> dict[str, NDArray[Any]]:
    weekday = (trips.event_us // DAY_US + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    return {
        "trip_miles": trips.metres / METRES_PER_MILE,
        "no_distance": trips.metres == 0,
        "hour": trips.event_us % DAY_US / HOUR_US,
        "weekday": weekday,
        "is_weekend": weekday >= 5,
        "passengers": np.nan_to_num(trips.passengers),
        "no_passengers": np.isnan(trips.passengers),
    }


def _zone_features(trips: Trips) -> dict[str, NDArray[Any]]:
    return {name: getattr(trips, name) for name in ZONE_FEATURES}


def _state_features(trips: Trips, known: Mapping[str, Integers]) -> dict[str, Floats]:
    month = _pace(known, "city", "30d", np.ones(len(trips.metres)), CITY_WEIGHTS)
    week = _pace(known, "city", "7d", month, CITY_WEIGHTS)
    city = {f"city_pace_{w}": _pace(known, "city", w, week, CITY_WEIGHTS) / week for w in ("24h", "3h", "1h", "30m")}
    zones = {}
    for end in ("pickup", "dropoff"):
        usual = _pace(known, end, "30d", month, ZONE_WEIGHTS) / month
        zones[f"{end}_pace_30d"] = usual
        for window in ("7d", "24h", "3h"):
            zones[f"{end}_pace_{window}"] = _pace(known, end, window, usual * week, ZONE_WEIGHTS) / (usual * week)

    either = np.sqrt(zones["pickup_pace_30d"] * zones["dropoff_pace_30d"])
    pair = _pace(known, "pair", "30d", either * month, PAIR_WEIGHTS) / month
    pair_week = _pace(known, "pair", "7d", pair * week, PAIR_WEIGHTS) / (pair * week)
    means = {
        "pair_miles": _pair_mean(known, "metres", USUAL_METRES) / METRES_PER_MILE,
        "pair_minutes": _pair_mean(known, "seconds", USUAL_SECONDS) / 60,
    }
    found = {"city_pace_7d": week, **city, **zones, "pair_pace_30d": pair, "pair_pace_7d": pair_week, **means}
    request = {"trip_miles": trips.metres / METRES_PER_MILE, "no_distance": (trips.metres == 0).astype(np.float64)}
    return found | derived(request | found)


def derived(known: Mapping[str, Floats]) -> dict[str, Floats]:
    """What follows from the features DERIVED_FROM, [B] each."""
    miles = np.where(known["no_distance"] > 0, known["pair_miles"], known["trip_miles"])
    expected = expected_seconds(np.rint(miles * METRES_PER_MILE).astype(np.int64)) / 60
    return {
        "distance_ratio": miles / known["pair_miles"],
        "expected_minutes": expected,
        "estimated_minutes": expected * known["pair_pace_30d"] * known["city_pace_7d"],
    }


def _pace(known: Mapping[str, Integers], entity: str, window: str, prior: Floats, weights: Mapping[str, int]) -> Floats:
    """[B] seconds over expected seconds of a window, drawn towards prior[B]."""
    more = weights[window] * TYPICAL_SECONDS
    pace: Floats = (known[f"{entity}_seconds_{window}"] + more * prior) / (known[f"{entity}_expected_{window}"] + more)
    return pace


def _pair_mean(known: Mapping[str, Integers], of: str, usual: int) -> Floats:
    """[B] mean metres or seconds of a pair's trips in thirty days, drawn towards those of its two zones."""
    means = [(known[f"{end}_{of}_30d"] + usual) / (known[f"{end}_trips_30d"] + 1) for end in ("pickup", "dropoff")]
    prior = np.sqrt(means[0] * means[1])
    mean: Floats = (known[f"pair_{of}_30d"] + PAIR_TRIPS * prior) / (known["pair_trips_30d"] + PAIR_TRIPS)
    return mean
