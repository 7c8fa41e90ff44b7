"""Alarms as CloudEvents, on the stream for the retraining trigger."""

from __future__ import annotations

from typing import Any, Final

from millrace.events.kinds import encode
from millrace.events.stream import ALARMS, Stream
from millrace.observe.tracing import Value, work_span

TYPE: Final = "io.millrace.drift"


def cloud_event(alarm: dict[str, Any], source: str, traceparent: str = "") -> dict[str, Any]:
    """An alarm in structured mode."""
    return ({"traceparent": traceparent} if traceparent else {}) | {
        "specversion": "1.0",
        "type": TYPE,
        "id": alarm["id"],
        "source": source,
        "subject": alarm["kind"],
        "time": alarm["raised_at"],
        "datacontenttype": "application/json",
        "data": alarm,
    }


def announce(stream: Stream, alarm: dict[str, Any], source: str) -> None:
    """Put an alarm on the stream; whoever reads it knows it by its id. Raises Unavailable."""
    about: dict[str, Value] = {f"millrace.alarm.{name}": str(alarm[name]) for name in ("id", "kind", "model_version")}
    with work_span("drift.alarm", attributes=about) as span:
        stream.append(ALARMS, [encode(cloud_event(alarm, source, span.traceparent))], [alarm["id"]])
