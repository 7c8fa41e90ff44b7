"""A reading of a machine in a hall, and the hours it then ran until it was serviced."""

from typing import Any, Final

from millrace.fields import Entity, Field, Kind, Label, events_of

VERSION: Final = 1
EVENT_ID: Final = "reading_id"
FIELDS: Final = (
    Field(name="reading_id", kind=Kind.ID),
    Field(name="event_timestamp", kind=Kind.INSTANT),
    Field(name="machine", kind=Kind.KEY),
    Field(name="hall", kind=Kind.KEY),
    Field(name="heat", kind=Kind.NUMBER),
    Field(name="load", kind=Kind.NUMBER, empty=True),
    Field(name="hours", kind=Kind.NUMBER, unit="hours", empty=True),
    Field(name="label_timestamp", kind=Kind.INSTANT, empty=True, optional=True),
)
EVENTS: Final = events_of(FIELDS)
ALIASES: Final[dict[str, str]] = {}
RULES: Final[dict[str, str]] = {}
STRAY_DAYS: Final = 0
EDGE_SHARE: Final = 0.0
CARRIED_TYPES: Final[dict[str, Any]] = {}
ENTITIES: Final = (
    Entity("machine", "machine"),
    Entity("hall", "hall"),
    Entity("post", "post", parts=("machine", "hall")),
)
LABEL: Final = Label("hours", unit="hours", delay_days=0)
