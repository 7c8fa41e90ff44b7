"""Trips as a snapshot has them, and the states that anyone can check by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.inputs import Requests
from millrace.instants import DAY_US
from trips import features, schema
from trips.formulas import expected_seconds, metres_of

STEP_US = DAY_US // features.REFRESHES_PER_DAY


@dataclass(frozen=True)
class Trip:
    pickup: str
    dropoff: str
    begin_us: int
    seconds: int
    miles: float = 2.0
    passengers: float | None = 1.0

    @property
    def end_us(self) -> int:
        return self.begin_us + self.seconds * 1_000_000


def table(trips: Sequence[Trip]) -> pa.Table:
    """The rows of a snapshot, in the order given."""
    columns = {
        "trip_id": range(len(trips)),
        "event_timestamp": [trip.begin_us for trip in trips],
        "pickup_zone": [trip.pickup for trip in trips],
        "dropoff_zone": [trip.dropoff for trip in trips],
        "passenger_count": [trip.passengers for trip in trips],
        "trip_distance": [trip.miles for trip in trips],
        "duration_min": [trip.seconds / 60 for trip in trips],
        "label_timestamp": [trip.end_us for trip in trips],
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema.EVENTS})


def request(trip: Trip) -> Requests:
    passengers = np.nan if trip.passengers is None else trip.passengers
    return Requests(
        np.array([1]),
        np.array([trip.begin_us]),
        {"pickup": [trip.pickup], "dropoff": [trip.dropoff]},
        {"trip_distance": np.array([trip.miles]), "passenger_count": np.array([passengers])},
    )


def states_by_hand(trips: Sequence[Trip], trip: Trip) -> dict[str, NDArray[np.int64]]:
    """What the online store holds for a trip that begins: sums over the trips that ended before the last refresh."""
    refresh_us = trip.begin_us // STEP_US * STEP_US
    of_entity = {
        "pickup": lambda other: other.pickup == trip.pickup,
        "dropoff": lambda other: other.dropoff == trip.dropoff,
        "pair": lambda other: (other.pickup, other.dropoff) == (trip.pickup, trip.dropoff),
        "city": lambda _: True,
    }
    states = {}
    for view in features.VIEWS:
        mine = [other for other in trips if other.miles > 0 and of_entity[view.entity](other)]
        row = [
            sum(
                _measure(other, measure) for other in mine if refresh_us - length * STEP_US <= other.end_us < refresh_us
            )
            for measure, length in features.columns(view.entity).values()
        ]
        states[view.name] = np.array([row], np.int64)
    return states


def _measure(trip: Trip, name: str) -> int:
    metres = metres_of(np.array([trip.miles]))
    values = {"trips": 1, "seconds": trip.seconds, "metres": metres[0], "expected": expected_seconds(metres)[0]}
    return int(values[name])
