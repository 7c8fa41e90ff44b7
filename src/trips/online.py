"""A request and the states of its zones → what the model reads. Nothing here reads a store or a clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from millrace.inputs import Requests, States
from trips import formulas as f
from trips.zones import borough_of, number_of


def model_inputs(
    requests: Requests,
    states: States,
    *,
    history_length: int,  # noqa: ARG001 - no view is recent
    sequence_length: int,  # noqa: ARG001
) -> tuple[NDArray[np.float32], None]:
    """B requests with the states of their entities → `features[B, F]`, and no history."""
    return f.features(trips_of(requests), states.refreshed), None


def trips_of(requests: Requests) -> f.Trips:
    """B requests as the formulas want them."""
    pickups = requests.keys["pickup"]
    dropoffs = requests.keys["dropoff"]

    return f.Trips(
        event_us=requests.event_us,
        metres=f.metres_of(requests.values["trip_distance"]),
        passengers=requests.values["passenger_count"],
        pickup_number=_integers([number_of(zone) for zone in pickups]),
        dropoff_number=_integers([number_of(zone) for zone in dropoffs]),
        pickup_borough=_integers([borough_of(zone) for zone in pickups]),
        dropoff_borough=_integers([borough_of(zone) for zone in dropoffs]),
        same_zone=np.equal(np.array(pickups), np.array(dropoffs)),
    )


def _integers(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)
