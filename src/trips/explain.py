"""Why a trip is thought to take so long: which part of what is known of it moves the prediction.

A reason is found by asking again with one part made unremarkable: a pace of 1, a usual distance, a quiet hour.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.fields import Input
from millrace.inputs import Requests, States
from millrace.instants import DAY_US
from trips import features
from trips import formulas as f
from trips.online import trips_of

GROUPS: Final = ("distance", "time_of_day", "pickup_zone", "dropoff_zone", "pair_of_zones", "city_now")
MIN_EFFECT: Final = 0.5
"""Minutes."""
USUAL_HOUR: Final = 5
"""The city is at rest, and every zone as fast as it gets."""

_NEUTRAL: Final = {
    "pickup_zone": dict.fromkeys(f.PICKUP_PACES, 1.0),
    "dropoff_zone": dict.fromkeys(f.DROPOFF_PACES, 1.0),
    "pair_of_zones": f.UNSEEN_PAIR,
    "city_now": dict.fromkeys(f.FRESH_PACES, 1.0),
}
"""Groups → features as they are where nothing is remarkable."""


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

    rows = {group: f.but(plain, changes) for group, changes in _NEUTRAL.items()}
    rows["distance"] = f.features(replace(trips, metres=f.metres_of(usual)), states.refreshed)
    rows["time_of_day"] = f.features(replace(trips, event_us=early), states.refreshed)
    return np.concatenate([rows[group] for group in GROUPS]), None


INPUTS: Final = (
    Input("distance", shows="trip_distance", fields={"trip_distance": "trip_miles"}),
    Input("time", shows="event_timestamp", features=("hour", "weekday", "is_weekend")),
    Input("passengers", shows="passenger_count", features=("passengers", "no_passengers")),
    Input("pickup_zone", shows="pickup_zone", features=("pickup_number", "pickup_borough", *f.PICKUP_PACES)),
    Input(
        "dropoff_zone",
        shows="dropoff_zone",
        features=("dropoff_number", "dropoff_borough", "same_zone", *f.DROPOFF_PACES, *f.UNSEEN_PAIR),
    ),
    Input("city_now", shows="event_timestamp", features=f.CITY_PACES),
)
"""What is known of the pair of zones counts as its drop-off zone's."""
HISTORY: Final[dict[str, tuple[str, int]]] = {}
