"""Every event that travels on the stream, described once: how it is written down, and how it is read again.

A scored event is `millrace.events.prediction`'s; here are the halves that KServe's logger tells of one, labels and
alarms. What cannot be read is refused with its fault, by whoever reads and by whoever would write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired

import orjson
from pydantic import AwareDatetime, Discriminator, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from millrace.errors import InvalidInput
from millrace.events.prediction import (
    STRICT,
    CloudEvent,
    EventId,
    Name,
    Number,
    PredictionEvent,
    Text,
    check,
    plausible,
    told_of,
)

LOGGED: Final = "io.millrace.logged"
LABEL: Final = "io.millrace.label"
SHOWN_FAULTS: Final = 3
PRIVATE: Final = "keys"
"""What is under this name is not repeated in a message: an id that should have been a pseudonym."""
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z


class HalfData(TypedDict):
    """One body that KServe's logger sent: the request or the response of a prediction."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    kind: Literal["request", "response"]
    request_id: Name
    at: AwareDatetime
    received: AwareDatetime
    workload: Name
    model_name: Name
    rows: list[dict[str, Any]]
    """By the workload's names, as far as the body says them; ids of pseudonymised entities are pseudonyms."""


class LoggedHalf(CloudEvent):
    """A `HalfData` as a CloudEvent."""

    type: Literal["io.millrace.logged"]
    id: str
    data: HalfData


class LabelData(TypedDict):
    """What became known of an event."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    workload: Name
    event_id: EventId
    label_timestamp: AwareDatetime
    dated: bool
    """Whether its time was told, or is that of its arrival."""
    value: Number


class LabelEvent(CloudEvent):
    """A `LabelData` as a CloudEvent."""

    type: Literal["io.millrace.label"]
    id: str
    data: LabelData


class Alarm(CloudEvent):
    """A reason to retrain. `data.retrain` says whether that may help; an alarm that does not say so asks for it."""

    type: Literal["io.millrace.drift", "io.millrace.outcome"]
    id: Name
    time: NotRequired[AwareDatetime | None]
    traceparent: NotRequired[Text | None]
    data: dict[str, Any]


_SCORED: Final[TypeAdapter[Any]] = TypeAdapter(Annotated[PredictionEvent | LoggedHalf, Discriminator("type")])
_LABEL: Final[TypeAdapter[Any]] = TypeAdapter(LabelEvent)
_ALARM: Final[TypeAdapter[Alarm]] = TypeAdapter(Alarm)


def half_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The event of a `HalfData`."""
    return _event(LOGGED, f"{data['request_id']}:{data['kind']}", data["model_name"], data)


def label_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The event of a `LabelData`."""
    identity = f"{data['workload']}:{data['event_id']}:{data['label_timestamp'].isoformat()}"
    return _event(LABEL, identity, data["workload"], data)


def encode(event: Mapping[str, Any]) -> bytes:
    """An event as the stream keeps it."""
    return orjson.dumps(event, option=_OPTIONS)


def read_scored(body: bytes) -> dict[str, Any]:
    """A scored event, or a half of one, from the topic of predictions; raises InvalidInput with every fault."""
    event: dict[str, Any] = _parsed(_SCORED, body)
    if event["type"] != LOGGED:
        check(event["data"])
        plausible("time", event["time"])
    return event


def read_label(body: bytes) -> LabelData:
    """A label from its topic; raises InvalidInput with every fault."""
    data: LabelData = _parsed(_LABEL, body)["data"]
    told_of(data["workload"])
    plausible("label_timestamp", data["label_timestamp"])
    return data


def read_alarm(body: bytes) -> Alarm:
    """An alarm from its topic; raises InvalidInput with every fault."""
    alarm: Alarm = _parsed(_ALARM, body)
    return alarm


def _parsed(adapter: TypeAdapter[Any], body: bytes) -> Any:
    """The body, checked; raises InvalidInput with every fault's place, what it got and what was wanted."""
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        raise InvalidInput(faults_of(error)) from error


def faults_of(error: ValidationError) -> str:
    """The first faults of a body, as text."""
    faults = error.errors(include_url=False, include_context=False)
    shown = "; ".join(_fault(fault) for fault in faults[:SHOWN_FAULTS])
    return shown + (f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else "")


def _event(kind: str, identity: str, source: str, data: Any) -> dict[str, Any]:
    about = {"specversion": "1.0", "type": kind, "id": identity, "source": f"/millrace/{source}"[:256]}
    return about | {"datacontenttype": "application/json", "data": data}


def _fault(fault: Mapping[str, Any]) -> str:
    """`1.data.score: Input should be a valid number, got 'x'`."""
    parts = [str(part) for part in fault["loc"] if not _is_kind(str(part))]
    place = ".".join(parts) or "body"
    if fault["type"] in ("missing", "json_invalid", "too_long") or PRIVATE in parts:
        return f"{place}: {fault['msg']}"
    got = repr(fault["input"])
    return f"{place}: {fault['msg']}, got {got if len(got) <= 60 else got[:57] + '...'}"


def _is_kind(part: str) -> bool:
    """Whether a part of a fault's place is an event's type, which pydantic puts in between."""
    return part.startswith(("io.millrace.", "org.kubeflow."))
