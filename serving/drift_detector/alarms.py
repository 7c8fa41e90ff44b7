"""Alarms as CloudEvents to the retraining trigger, each until it was taken; the receiver knows an alarm by its id."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httpx
import orjson

from millrace.observe import telemetry
from millrace.observe.progress import log
from millrace.observe.tracing import Span, Value, work_span
from serving.drift_detector.service import DriftService

TYPE: Final = "io.millrace.drift"
TIMEOUT_S: Final = 10.0
NO_ANSWER: Final = 599
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


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


async def deliver(service: DriftService, sink: str, source: str) -> None:
    """Post what was not delivered, again and again, with longer pauses while the sink is away. Never returns."""
    pause_s = FIRST_PAUSE_S
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
        while True:
            failed = False
            for alarm in service.undelivered():
                if await _announce(client, sink, alarm, source):
                    service.delivered.add(alarm["id"])
                else:
                    failed = True
                    break
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if failed else FIRST_PAUSE_S
            await asyncio.sleep(pause_s)


async def _announce(client: httpx.AsyncClient, sink: str, alarm: dict[str, Any], source: str) -> bool:
    """True when the sink has it, or says that it never will (4xx): asking again would not change that."""
    about: dict[str, Value] = {f"millrace.alarm.{name}": str(alarm[name]) for name in ("id", "kind", "model_version")}
    with work_span("drift.alarm", attributes=about) as span:
        status = await _post(client, sink, cloud_event(alarm, source, span.traceparent), span)
        span.answered(status)
    return 200 <= status < 500 and status not in (404, 408, 429)


async def _post(client: httpx.AsyncClient, sink: str, event: dict[str, Any], span: Span) -> int:
    """The status; 599 where there was no answer."""
    headers = span.forward([(b"content-type", b"application/cloudevents+json")])
    try:
        answer = await client.post(sink, content=orjson.dumps(event), headers=headers)
    except httpx.HTTPError as error:
        telemetry.DRIFT_ALARM_FAILURES.inc()
        log("drift_alarm_not_delivered", sink=sink, error=repr(error))
        return NO_ANSWER
    if not answer.is_success:
        telemetry.DRIFT_ALARM_FAILURES.inc()
        log("drift_alarm_not_delivered", sink=sink, status=answer.status_code, answer=answer.text[:200])
    return answer.status_code
