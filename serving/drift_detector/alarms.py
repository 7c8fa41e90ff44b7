"""Alarms as CloudEvents to the retraining trigger, each until it was taken; the receiver knows an alarm by its id."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httpx
import orjson

from millrace import telemetry
from millrace.progress import log
from serving.drift_detector.service import DriftService

TYPE: Final = "io.millrace.drift"
TIMEOUT_S: Final = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


def cloud_event(alarm: dict[str, Any], source: str) -> dict[str, Any]:
    """An alarm in structured mode."""
    return {
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
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        while True:
            failed = False
            for alarm in service.undelivered():
                if await _post(client, sink, cloud_event(alarm, source)):
                    service.delivered.add(alarm["id"])
                else:
                    failed = True
                    break
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if failed else FIRST_PAUSE_S
            await asyncio.sleep(pause_s)


async def _post(client: httpx.AsyncClient, sink: str, event: dict[str, Any]) -> bool:
    """True when the sink has it, or says that it never will (4xx): asking again would not change that."""
    try:
        answer = await client.post(
            sink, content=orjson.dumps(event), headers={"content-type": "application/cloudevents+json"}
        )
    except httpx.HTTPError as error:
        telemetry.DRIFT_ALARM_FAILURES.inc()
        log("drift_alarm_not_delivered", sink=sink, error=repr(error))
        return False
    if answer.is_success:
        return True
    telemetry.DRIFT_ALARM_FAILURES.inc()
    log("drift_alarm_not_delivered", sink=sink, status=answer.status_code, answer=answer.text[:200])
    return answer.is_client_error and answer.status_code not in (404, 408, 429)
