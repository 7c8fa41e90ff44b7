"""Features of whole days, and the states of zones, pairs and the city from refresh to refresh.

What a feature means, and the formulas that both paths share, stand in `features.py` and `formulas.py`; sums over
sliding windows are the platform's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.features.days import DayFeatures, DayStates, Events
from millrace.features.events import as_events
from millrace.features.shards import Shard
from millrace.features.windows import Windows
from millrace.instants import DAY_US
from trips import features, schema
from trips import formulas as f
from trips.zones import borough_of, number_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

COLUMNS: Final = pa.schema([*schema.EVENTS, pa.field("metres", pa.int64(), nullable=False)])
SMALL_STEPS: Final = frozenset(
    name for entity in features.WINDOWS for name in features.columns(entity) if "_trips_" in name
)
RELEVANT: Final = "true"
"""The state of the city is of all trips."""
SHARDS: Final[tuple[Shard, ...]] = ()


def events(rows: pa.Table) -> Events:
    """`rows` as schema.EVENTS, or as COLUMNS."""
    values = {
        "metres": f.metres_of(rows["trip_distance"].to_numpy()),
        "passenger_count": rows["passenger_count"],
    }
    return as_events(rows, schema, values)


def daily(
    connection: DuckDBPyConnection,  # noqa: ARG001 - NumPy adds up a month in a second
    events: Events,
    history_length: int,  # noqa: ARG001 - no view is recent
    first_day: int,
    last_day: int,
) -> Iterator[DayFeatures]:
    """Every day from first_day to last_day (days since 1970), with or without trips.

    Trips that have ended before a refresh count in its states; none may begin later than last_day.
    """
    begun = Begun(events)
    sums = _sums(events)
    day_of = events.column("event_us") // DAY_US
    by_day = np.argsort(day_of, kind="stable")

    for day in range(first_day, last_day + 1):
        first, last = np.searchsorted(day_of[by_day], [day, day + 1])
        rows = by_day[first:last]
        states = {
            view.name: sums[view.entity].day(day, list(features.columns(view.entity).values()))
            for view in features.VIEWS
        }
        found = f.features(begun.at(rows), begun.states_at(rows, states))
        yield DayFeatures(rows, found, {"metres": begun.trips.metres[rows]}, states)


class Begun:
    """All trips as the formulas want them, and the codes of their entities."""

    def __init__(self, events: Events) -> None:
        self.codes = {entity: events.column(entity) for entity in features.WINDOWS}
        pickup, dropoff = (events.ids[end].to_pylist() for end in ("pickup", "dropoff"))
        numbers = [np.array([number_of(zone) for zone in ids], np.int64) for ids in (pickup, dropoff)]
        boroughs = [np.array([borough_of(zone) for zone in ids], np.int64) for ids in (pickup, dropoff)]
        place = {zone: number for number, zone in enumerate(pickup)}
        same = np.array([place.get(zone, -1) for zone in dropoff], np.int64)
        at = self.codes["pickup"], self.codes["dropoff"]

        self.trips = f.Trips(
            event_us=events.column("event_us"),
            metres=events.column("metres"),
            passengers=events.table["passenger_count"].fill_null(np.nan).to_numpy(),
            pickup_number=numbers[0][at[0]],
            dropoff_number=numbers[1][at[1]],
            pickup_borough=boroughs[0][at[0]],
            dropoff_borough=boroughs[1][at[1]],
            same_zone=same[at[1]] == at[0],
        )

    def at(self, rows: NDArray[np.int64]) -> f.Trips:
        """Some of them."""
        return f.Trips(*(getattr(self.trips, name)[rows] for name in f.Trips.__slots__))

    def states_at(self, rows: NDArray[np.int64], days: Mapping[str, DayStates]) -> dict[str, NDArray[np.int64]]:
        """States of their entities as they begin: view → [B, fields]."""
        now_us = self.trips.event_us[rows]
        return {view.name: days[view.name].at(self.codes[view.entity][rows], now_us) for view in features.VIEWS}


def _sums(events: Events) -> dict[str, Windows]:
    """Windows of every entity over the trips that have ended and of which the meter gave a distance."""
    label = events.table[schema.LABEL.column]
    metres = events.column("metres")
    counts = label.is_valid().to_numpy() & (metres > 0)
    known_us = events.table["label_us"].filter(pa.array(counts)).to_numpy()

    measures = {
        "trips": np.ones(len(known_us), np.int64),
        "seconds": np.rint(label.filter(pa.array(counts)).to_numpy() * 60).astype(np.int64),
        "expected": f.expected_seconds(metres[counts]),
        "metres": metres[counts],
    }

    return {
        entity: Windows(events.column(entity)[counts].astype(np.int64), known_us, measures, features.REFRESHES_PER_DAY)
        for entity in features.WINDOWS
    }
