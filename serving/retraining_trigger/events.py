"""CloudEvents and people's requests into `Request`s; whatever is wrong is refused by name, whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NotRequired

import orjson
from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from millrace.errors import InvalidInput
from serving.retraining_trigger.core import DRIFT, OUTCOME, PERSON, Request

BATCH_TYPE: Final = b"application/cloudevents-batch+json"
EVENT_TYPE: Final = b"application/cloudevents+json"
KINDS: Final = {"io.millrace.drift": DRIFT, "io.millrace.outcome": OUTCOME}
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Alarm(TypedDict):
    """`data.retrain` says whether a retraining may help; a drift alarm that does not say so asks for one."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore")  # type: ignore[misc]
    specversion: Literal["1.0"]
    type: Literal["io.millrace.drift", "io.millrace.outcome"]
    id: Name
    source: Name
    time: NotRequired[AwareDatetime | None]
    traceparent: NotRequired[Annotated[str, Field(max_length=256)] | None]
    data: dict[str, Any]


class Ask(TypedDict):
    """What a person sends."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    reason: Name
    id: NotRequired[Name]


_ONE: Final[TypeAdapter[Alarm]] = TypeAdapter(Alarm)
_MANY: Final[TypeAdapter[list[Alarm]]] = TypeAdapter(Annotated[list[Alarm], Field(min_length=1, max_length=1000)])
_ASK: Final[TypeAdapter[Ask]] = TypeAdapter(Ask)


def alarms(headers: Mapping[bytes, bytes], body: bytes, model_name: str) -> list[Request]:
    """The requests of a POST, all or none; raises InvalidInput for what is no alarm, or another model's."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == BATCH_TYPE:
        events = _parsed(_MANY, body)
    elif kind == EVENT_TYPE:
        events = [_parsed(_ONE, body)]
    elif b"ce-type" in headers:
        events = [_parsed(_ONE, _structured(headers, body))]
    else:
        raise InvalidInput(
            f"content-type is {kind.decode('latin-1')!r} and there are no ce- headers; wanted a CloudEvent"
        )
    return [_request(event, model_name) for event in events]


def ask(body: bytes, now: datetime) -> Request:
    """A person's `{"reason": …, "id": …}`; raises InvalidInput."""
    asked = _parsed(_ASK, body)
    return Request(asked.get("id") or f"person-{now.isoformat(timespec='seconds')}", PERSON, asked["reason"], now)


def _request(event: Alarm, model_name: str) -> Request:
    model = event["data"].get("model_name", model_name)
    if model != model_name:
        raise InvalidInput(f"event {event['id']} is about model {model!r}; this trigger retrains {model_name!r}")
    reason, wanted = event["data"].get("reason", ""), event["data"].get("retrain", True)
    if not isinstance(reason, str) or not isinstance(wanted, bool):
        raise InvalidInput(f"event {event['id']}: data.reason must be a text and data.retrain true or false")
    at = _last_event(event["data"]) or event.get("time") or datetime.now(UTC)
    trace = event.get("traceparent") or ""
    return Request(event["id"], KINDS[event["type"]], reason[:2000], at, wanted, trace)


def _last_event(data: Mapping[str, Any]) -> datetime | None:
    """When what the alarm is about happened, where it says so: its own time, whenever it was found."""
    try:
        at = datetime.fromisoformat(str(data.get("last_event", "")))
    except ValueError:
        return None
    return at if at.tzinfo else None


def _structured(headers: Mapping[bytes, bytes], body: bytes) -> bytes:
    """Binary mode as one JSON document."""
    attributes = {name[3:]: value for name, value in headers.items() if name[:3] == b"ce-"}
    event: dict[str, Any] = {name.decode("latin-1"): value.decode("latin-1") for name, value in attributes.items()}
    try:
        event["data"] = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the event's data is not JSON: {error}") from error
    return orjson.dumps(event)


def _parsed(kind: TypeAdapter[Any], body: bytes) -> Any:
    try:
        return kind.validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise InvalidInput(f"{where}: {first['msg']}; wanted {kind.core_schema.get('cls', 'an alarm')}") from error
