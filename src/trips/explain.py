"""Why a trip is thought to take so long: which part of what is known of it moves the prediction.

A reason is found by asking again with one part made unremarkable: a pace of 1, a usual distance, a quiet hour.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.inputs import Requests, States
from millrace.instants import DAY_US
from millrace.workload import Input
from trips import features
from trips import formulas as f
from trips.online import trips_of

GROUPS: Final = ("distance", "time_of_day", "pickup_zone", "dropoff_zone", "pair_of_zones", "city_now")
MIN_EFFECT: Final = 0.5
"""Minutes."""
USUAL_HOUR: Final = 5
"""The city is at rest, and every zone as fast as it gets."""

_RECENT: Final = ("city_pace_24h", "city_pace_3h", "city_pace_1h", "city_pace_30m")
_NEUTRAL: Final = {
    "pickup_zone": tuple(name for name in features.STATE_FEATURES if name.startswith("pickup_pace")),
    "dropoff_zone": tuple(name for name in features.STATE_FEATURES if name.startswith("dropoff_pace")),
    "pair_of_zones": ("pair_pace_30d", "pair_pace_7d"),
    "city_now": _RECENT,
}
"""Groups → features that are 1 where nothing is remarkable."""


def variants(
    requests: Requests,
    states: States,
    *,
    history_length: int,  # noqa: ARG001 - no view is recent
    sequence_length: int,  # noqa: ARG001
) -> tuple[NDArray[np.float32], None]:
    """One request → `features[K, F]` in the order of GROUPS, in each of which one group is nothing remarkable."""
    trips = trips_of(requests)
    plain = f.features(trips, states.refreshed)
    usual = plain[:, features.FEATURE_NAMES.index("pair_miles")].astype(np.float64)
    early = trips.event_us // DAY_US * DAY_US + USUAL_HOUR * f.HOUR_US
    made_again = {
        "distance": replace(trips, metres=f.metres_of(usual)),
        "time_of_day": replace(trips, event_us=early),
    }
    rows = [
        f.features(made_again[group], states.refreshed) if group in made_again else _neutral(plain, _NEUTRAL[group])
        for group in GROUPS
    ]
    return np.concatenate(rows), None


INPUTS: Final = (
    Input("distance", "trip_distance", fields={"trip_distance": "trip_miles"}),
    Input("time", "event_timestamp", features=("hour", "weekday", "is_weekend")),
    Input("passengers", "passenger_count", features=("passengers", "no_passengers")),
    Input("pickup_zone", "pickup_zone", features=("pickup_number", "pickup_borough", *_NEUTRAL["pickup_zone"])),
    Input("dropoff_zone", "dropoff_zone", features=("dropoff_number", "dropoff_borough", *_NEUTRAL["dropoff_zone"])),
    Input("pair_of_zones", "pair", features=("same_zone", "pair_miles", "pair_minutes", *_NEUTRAL["pair_of_zones"])),
    Input("city", "city", features=("city_pace_7d", *_RECENT)),
)
HISTORY: Final[dict[str, tuple[str, int]]] = {}


def _neutral(plain: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
    row = plain.copy()
    row[:, [features.FEATURE_NAMES.index(name) for name in names]] = 1.0
    return row
