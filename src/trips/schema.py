"""The raw schema: the public taxi records of New York, whose columns change their types from month to month.

A record is written when its trip ends, so a source holds the label with the request. The public records have no id:
one is made of what was known at both ends. A trip that a source holds twice, as a voided fare is, counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from millrace.fields import Entity, Field, Kind, Label, events_of

VERSION = 1
EVENT_ID = "trip_id"
MAX_MILES: Final = 100.0
"""Longer ones are slips of the meter: the city is 35 miles across."""
ANYWHERE: Final = "all"
"""The one id of the entity `city`."""

_ID: Final = """
    CAST(md5_number_lower(concat_ws('|', epoch_us(event_timestamp), epoch_us(label_timestamp), pickup_zone,
    dropoff_zone, coalesce(passenger_count, -1), trip_distance)) >> 1 AS BIGINT)
"""
"""63 bits of a hash that stays the same from release to release."""
_MINUTES: Final = "(epoch_us(label_timestamp) - epoch_us(event_timestamp)) / 60e6"

FIELDS: tuple[Field, ...] = (
    Field(name="trip_id", kind=Kind.ID, sql=_ID),
    Field(name="event_timestamp", kind=Kind.INSTANT),  # the passenger gets in
    Field(name="pickup_zone", kind=Kind.KEY),
    Field(name="dropoff_zone", kind=Kind.KEY),
    Field(name="passenger_count", kind=Kind.NUMBER, minimum=0, maximum=99, empty=True),
    Field(name="trip_distance", kind=Kind.NUMBER, unit="miles", minimum=0, maximum=MAX_MILES),
    Field(name="duration_min", kind=Kind.NUMBER, unit="minutes", minimum=1, maximum=60, empty=True, sql=_MINUTES),
    Field(name="label_timestamp", kind=Kind.INSTANT, empty=True),  # the passenger gets out
)
EVENTS = events_of(FIELDS)

ALIASES: Mapping[str, str] = {
    "lpep_pickup_datetime": "event_timestamp",
    "tpep_pickup_datetime": "event_timestamp",
    "lpep_dropoff_datetime": "label_timestamp",
    "tpep_dropoff_datetime": "label_timestamp",
    "PULocationID": "pickup_zone",
    "DOLocationID": "dropoff_zone",
}
"""Public names, of green and of yellow taxis → ours."""

HINTS: Mapping[str, str] = {
    "event_timestamp": r"(pickup|start|trip_start|pu)_?(datetime|time|timestamp|at|date)",
    "label_timestamp": r"(dropoff|end|trip_end|do)_?(datetime|time|timestamp|at|date)",
    "pickup_zone": r"(pickup|start|from|origin|pu)_?(zone|location|area|community_area|id)(_?id)?",
    "dropoff_zone": r"(dropoff|end|to|destination|do)_?(zone|location|area|community_area|id)(_?id)?",
    "passenger_count": r"passengers|passenger_?count",
    "trip_distance": r"(trip_)?(distance|miles)(_mi(les)?)?",
}
"""Field → pattern of the names that others give it."""
RULES: Mapping[str, str] = {}
EDGE_SHARE = 0.05
"""A month's file has a few trips of the months beside it, and of 2009."""
CARRIED_TYPES: Mapping[str, pa.DataType] = {}
ENTITIES: tuple[Entity, ...] = (
    Entity("pickup", "pickup_zone"),
    Entity("dropoff", "dropoff_zone"),
    Entity("pair", "zone_pair", parts=("pickup", "dropoff")),
    Entity("city", "city", constant=ANYWHERE),
)
LABEL = Label("duration_min", unit="minutes", delay_days=0)
