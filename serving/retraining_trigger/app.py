"""The routes of the trigger, as a bare ASGI application: alarms and people in, what became of them out."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from millrace import telemetry
from millrace.errors import NotFound
from serving.lean import Receive, Reply, Send, error_reply, read_body, respond
from serving.retraining_trigger.events import alarms, ask
from serving.retraining_trigger.service import Trigger

SERVER = "retraining_trigger"
ROUTES = ("POST /", "POST /v1/retrain", "GET /v1/status", "GET /healthz", "GET /metrics")


class App:
    """ASGI."""

    def __init__(self, trigger: Trigger, model_name: str) -> None:
        self._trigger, self._model_name = trigger, model_name

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        start, route = time.perf_counter(), f"{scope['method']} {scope['path']}"
        try:
            reply = await self._answer(route, dict(scope["headers"]), receive)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
            reply = error_reply(error)
        if route in ROUTES:
            telemetry.REQUESTS.labels(SERVER, scope["path"], reply.status).inc()
            telemetry.REQUEST_SECONDS.labels(SERVER, scope["path"]).observe(time.perf_counter() - start)
        await respond(send, reply)

    async def _answer(self, route: str, headers: dict[bytes, bytes], receive: Receive) -> Reply:
        match route:
            case "POST /":
                requests = alarms(headers, await read_body(receive, headers), self._model_name)
            case "POST /v1/retrain":
                requests = [ask(await read_body(receive, headers), datetime.now(UTC))]
            case "GET /v1/status":
                return Reply(orjson.dumps(self._trigger.status()))
            case "GET /healthz":
                return Reply(orjson.dumps({"trouble": self._trigger.trouble}))
            case "GET /metrics":
                return Reply(generate_latest(), content_type=CONTENT_TYPE_LATEST.encode())
            case _:
                raise NotFound(f"no {route}; there are {', '.join(ROUTES)}")
        said = await asyncio.to_thread(self._trigger.take, requests)
        return Reply(orjson.dumps({"requests": said}), status=202)
