"""A prediction event, described once: what it says of one scored event, with types and bounds.

The transformer makes events by this description, the prediction log and the drift detector read them by it, and the
log's table and its readers take their columns from it. What a workload decides (keys, fields, the score's range) is
`check`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, StringConstraints
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from millrace.errors import ConfigError, InvalidInput
from millrace.event_ids import event_key
from millrace.fields import Kept
from millrace.installed import Workload, load
from millrace.workload import Task

EVENT_TYPE: Final = "io.millrace.prediction"
CHAMPION, CHALLENGER, SHADOW = "champion", "challenger", "shadow"
REVIEW, APPROVE = "review", "approve"
"""Decisions: at or above the model's threshold, and below it."""
STAGES: Final = ("full", "cheap", "cache")
"""Who gave a score: the model, the cheap first one of a cascade, or the predictor's memory."""
MAX_TEXT: Final = 256
MAX_FIELDS: Final = 256
MAX_FEATURES: Final = 1024
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2200
PSEUDONYM: Final = re.compile("[0-9a-f]{16}")

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]  # PostgreSQL takes no NUL
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Feature = Annotated[float, Field(allow_inf_nan=False, ge=-3.4028235e38, le=3.4028235e38)]  # float32
EventId = Annotated[
    int,
    BeforeValidator(lambda value: event_key(value) if isinstance(value, str) else value),
    Field(ge=-(2**63), lt=2**63),
]
"""A whole number; a text is what stands for it in states and logs."""

STRICT: Final = ConfigDict(strict=True, extra="ignore")


class PredictionData(TypedDict):
    """What is said of one scored event (docs/architecture.md, "Prediction events")."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    workload: Name
    event_id: EventId
    """The workload's own id of the event."""
    event_timestamp: AwareDatetime
    keys: dict[Name, Text]
    """Key column → id; a pseudonym where the entity is pseudonymised."""
    fields: Annotated[dict[Name, Number | Text | None], Field(max_length=MAX_FIELDS)]
    """What else is kept of the request: `watch.FIELDS`."""
    model_name: Name
    model_version: Name
    score: Number
    low: NotRequired[Number]
    """With `high` the interval of a regression, in the label's unit."""
    high: NotRequired[Number]
    decision: NotRequired[Literal["review", "approve"]]
    """Where the task has one."""
    degraded: bool
    stage: Literal["full", "cheap", "cache"]
    arm: Literal["champion", "challenger", "shadow"]
    latency_ms: Annotated[Number, Field(ge=0)]
    features: Annotated[list[Feature | None], Field(max_length=MAX_FEATURES)]
    """[F], null where unknown."""
    feature_service: Text
    dry_run: NotRequired[bool]
    """A trial: scored and kept, and no part of any figure."""


class CloudEvent(TypedDict):
    """What an event of any type says of itself; `type` tells them apart, `data` is the type's own."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    specversion: Literal["1.0"]
    source: Name


class PredictionEvent(CloudEvent):
    """A `PredictionData` as an event; `id` is `<request id>:<row>`, and `:shadow` behind it for a shadow's score."""

    type: Literal["io.millrace.prediction"]
    id: Name
    time: AwareDatetime
    traceparent: NotRequired[Text | None]
    data: PredictionData


@dataclass(frozen=True, slots=True)
class Told:
    """What a workload's events say beside what all say."""

    event_id: str
    """Column name of the event's id."""
    keys: tuple[str, ...]
    pseudonyms: frozenset[str]
    fields: Mapping[str, Kept]
    task: Task

    @property
    def names(self) -> tuple[str, ...]:
        return (self.event_id, *self.keys, *self.fields)


def told_of(workload: str, service: str = "") -> Told:
    """What an event tells of a workload, by its name; raises ConfigError for one that is not installed.

    With a `service`, of the variant whose features those are: what serves may be older than the newest document.
    """
    return _told(load(workload, service))


@cache
def _told(parts: Workload) -> Told:
    schema = parts.schema
    entities = [entity for entity in schema.ENTITIES if entity.key in schema.EVENTS.names]

    return Told(
        schema.EVENT_ID,
        tuple(entity.key for entity in entities),
        frozenset(entity.key for entity in entities if entity.pseudonymised),
        parts.watch.FIELDS,
        parts.task,
    )


@cache
def feed_column(workload: str) -> str | None:
    """Column of the keys by whose ranges the feed is watched; None where it is watched as a whole."""
    parts = load(workload)
    return parts.entity(parts.watch.FEED).key if parts.watch.FEED else None


def feed_name(workload: str) -> str:
    """What the ids that the feed is watched by are called, for people."""
    entity = load(workload).watch.FEED
    return f"{entity.replace('_', ' ')}s" if entity else ""


def event_of(
    data: PredictionData, *, request_id: str, row: int, scored_at: datetime, traceparent: str | None = None
) -> dict[str, Any]:
    """The CloudEvent of a scored row, for orjson: arrays in `data` may stay arrays (NaN becomes null)."""
    arm = f":{SHADOW}" if data["arm"] == SHADOW else ""  # a row has one answer: only a shadow's score needs a mark
    event = {
        "specversion": "1.0",
        "type": EVENT_TYPE,
        "id": f"{request_id}:{row}{arm}",
        "source": f"/millrace/{data['model_name']}",
        "subject": str(data["event_id"]),
        "time": scored_at,
        "datacontenttype": "application/json",
        "data": data,
    }

    return event if traceparent is None else event | {"traceparent": traceparent}


def request_of(event_id: str) -> str:
    """The id of the request that an event is of."""
    return event_id.removesuffix(f":{SHADOW}").rpartition(":")[0] or event_id


def check(data: PredictionData) -> None:
    """Raise InvalidInput, naming the field, where data of the right types is not as its workload says.

    An id is not repeated: it may be one that should have been a pseudonym.
    """
    try:
        told = told_of(data["workload"], data["feature_service"])
    except ConfigError as error:
        raise InvalidInput(f"workload: {error}") from error

    plausible("event_timestamp", data["event_timestamp"])
    _check_keys(data["keys"], told)
    _check_fields(data["fields"], told)
    _check_answer(data, told.task)


def plausible(what: str, instant: datetime) -> datetime:
    """The instant; raises InvalidInput for one that no event can have."""
    if not FIRST_YEAR <= instant.year < LAST_YEAR:
        raise InvalidInput(f"{what} is {instant.isoformat()}; wanted a year from {FIRST_YEAR} to {LAST_YEAR - 1}")
    return instant


def _check_keys(keys: Mapping[str, str], told: Told) -> None:
    if keys.keys() != set(told.keys):
        raise InvalidInput(f"keys are of {sorted(keys)}; wanted {', '.join(told.keys)}")
    for name in told.pseudonyms:
        if not PSEUDONYM.fullmatch(keys[name]):
            raise InvalidInput(f"keys.{name} is no pseudonym; wanted 16 hexadecimal digits")


def _check_fields(fields: Mapping[str, float | str | None], told: Told) -> None:
    for name, value in fields.items():
        if name not in told.fields:
            raise InvalidInput(f"fields.{name} is unknown; wanted some of {', '.join(told.fields) or 'none'}")
        if value is not None and not told.fields[name].takes(value):
            raise InvalidInput(f"fields.{name} is {value!r}; wanted {told.fields[name]}")


def _check_answer(data: PredictionData, task: Task) -> None:
    score = data["score"]
    if task is Task.REGRESSION:
        low, high = data.get("low"), data.get("high")
        if low is None or high is None or not low <= high:
            raise InvalidInput(f"low and high are {low} and {high}; wanted an interval with every {task}")
    elif not 0 <= score <= 1:
        raise InvalidInput(f"score is {score}; wanted a number in [0, 1]")
    elif task is Task.RANKING and "decision" not in data:
        raise InvalidInput(f"decision is missing; wanted {REVIEW!r} or {APPROVE!r}")
