"""The routes of the trigger, as a bare ASGI application: alarms and people in, what became of them out."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from millrace.errors import NotFound
from millrace.observe import telemetry
from millrace.observe.progress import REQUEST
from millrace.observe.tracing import CURRENT, OFF, server_span
from serving.lean import Headers, Receive, Reply, Send, error_reply, read_body, respond
from serving.retraining_trigger.events import alarms, ask
from serving.retraining_trigger.service import Trigger

SERVER = "retraining_trigger"
TRACED = ("POST /", "POST /v1/retrain")
ROUTES = ("POST /", "POST /v1/retrain", "GET /v1/status", "GET /healthz", "GET /metrics")


class App:
    """ASGI."""

    def __init__(self, trigger: Trigger, model_name: str) -> None:
        self._trigger, self._model_name = trigger, model_name

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        route = f"{scope['method']} {scope['path']}"
        headers: Headers = dict(scope["headers"])
        with server_span(route, headers) if route in TRACED else OFF as span:
            headers = span.headers(headers)
            REQUEST.set(headers)
            status = await self._respond(route, scope["path"], headers, receive, send)
            span.answered(status)

    async def _respond(self, route: str, path: str, headers: Headers, receive: Receive, send: Send) -> int:
        start = time.perf_counter()
        try:
            reply = await self._answer(route, headers, receive)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
            reply = error_reply(error)
        if route in ROUTES:
            telemetry.REQUESTS.labels(SERVER, path, reply.status).inc()
            telemetry.REQUEST_SECONDS.labels(SERVER, path).observe(time.perf_counter() - start)
        await respond(send, reply)
        return reply.status

    async def _answer(self, route: str, headers: Headers, receive: Receive) -> Reply:
        match route:
            case "POST /":
                requests = alarms(headers, await read_body(receive, headers), self._model_name)
                CURRENT.get().link(request.traceparent for request in requests)
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
