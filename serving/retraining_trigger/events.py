"""CloudEvents and people's requests into `Request`s; whatever is wrong is refused by name, whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from millrace.errors import InvalidInput
from millrace.events.kinds import Alarm
from serving.cloudevents import Decoder, parse
from serving.retraining_trigger.core import DRIFT, OUTCOME, PERSON, Request

KINDS: Final = {"io.millrace.drift": DRIFT, "io.millrace.outcome": OUTCOME}
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Ask(TypedDict):
    """What a person sends."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    reason: Name
    id: NotRequired[Name]
    workload: NotRequired[Name]


_ALARMS: Final = Decoder(Alarm)
_ASK: Final[TypeAdapter[Ask]] = TypeAdapter(Ask)


def alarms(
    headers: Mapping[bytes, bytes], body: bytes, models: Mapping[str, str], default: str
) -> list[tuple[str, Request]]:
    """(workload, request) of each alarm of a POST, all or none; raises InvalidInput for what is no alarm."""
    return [request_of(event, models, default) for event in _ALARMS.read(headers, body)]


def request_of(event: Mapping[str, Any], models: Mapping[str, str], default: str) -> tuple[str, Request]:
    """(workload, request) of an alarm; raises InvalidInput.

    `models`: model → workload; an alarm that names no model is of the workload `default`, one of another is refused.
    """
    return _workload(event, models, default), _request(event)


def ask(body: bytes, now: datetime) -> tuple[str, Request]:
    """A person's `{"reason": …, "id": …, "workload": …}`: (workload, empty where none is named; request).

    Raises InvalidInput.
    """
    asked = parse(_ASK, body)
    identity = asked.get("id") or f"person-{now.isoformat(timespec='seconds')}"
    return asked.get("workload", ""), Request(identity, PERSON, asked["reason"], now)


def _workload(event: Mapping[str, Any], models: Mapping[str, str], default: str) -> str:
    model = event["data"].get("model_name")
    if model is None:
        return default
    if model not in models:
        known = ", ".join(sorted(models))
        raise InvalidInput(f"event {event['id']} is about model {model!r}; this trigger retrains {known}")
    return models[model]


def _request(event: Mapping[str, Any]) -> Request:
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
