"""A reading of a machine, and how many hours it ran on."""

from millrace.workload import Entity, Field, Kind, Label, events_of

VERSION = 1
EVENT_ID = "reading_id"
FIELDS = (
    Field(name="reading_id", kind=Kind.ID),
    Field(name="event_timestamp", kind=Kind.INSTANT),
    Field(name="machine", kind=Kind.KEY),
    Field(name="hours", kind=Kind.NUMBER, empty=True),
    Field(name="label_timestamp", kind=Kind.INSTANT, empty=True, optional=True),
)
EVENTS = events_of(FIELDS)
ALIASES: dict[str, str] = {}
RULES: dict[str, str] = {}
STRAY_DAYS = 0
CARRIED_TYPES: dict[str, object] = {}
ENTITIES = (Entity("machine", "machine"),)
LABEL = Label("hours", unit="hours", delay_days=0)
