"""Events of rides: a key of any type, an empty count, a range, a rule, a label that is known when the ride ends."""

from millrace.fields import Entity, Field, Kind, Label, events_of

VERSION = 1
EVENT_ID = "ride_id"
FIELDS = (
    Field(
        name="ride_id",
        kind=Kind.ID,
        sql="CAST(md5_number_lower(concat_ws('|', epoch_us(event_timestamp), stop, riders, metres)) >> 1 AS BIGINT)",
    ),
    Field(name="event_timestamp", kind=Kind.INSTANT),
    Field(name="stop", kind=Kind.KEY),
    Field(name="riders", kind=Kind.WHOLE, empty=True, minimum=0),
    Field(name="metres", kind=Kind.NUMBER, unit="m", minimum=1, maximum=50_000),
    Field(name="line", kind=Kind.TEXT, empty=True, optional=True),
    Field(
        name="minutes",
        kind=Kind.NUMBER,
        minimum=0,
        empty=True,
        sql="(epoch_us(label_timestamp) - epoch_us(event_timestamp)) / 60e6",
    ),
    Field(name="label_timestamp", kind=Kind.INSTANT, empty=True),
)
EVENTS = events_of(FIELDS)
ALIASES = {"Boarded": "event_timestamp", "Alighted": "label_timestamp"}
CARRIED_TYPES = {}
RULES = {"too_fast": "metres > 1000 * minutes"}
EDGE_SHARE = 0.1
ENTITIES = (
    Entity("stop", "stop"),
    Entity("line", "line"),
    Entity("stop_of_line", "stop_of_line", parts=("stop", "line")),
    Entity("town", "town", constant="all"),
)
LABEL = Label("minutes", unit="minutes", delay_days=0)
