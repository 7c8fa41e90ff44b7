"""The routes of the trigger, as a bare ASGI application: alarms and people in, what became of them out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from millrace.errors import NotFound
from millrace.observe import telemetry
from millrace.observe.progress import REQUEST
from millrace.observe.tracing import CURRENT, OFF, server_span
from serving.lean import Headers, Receive, Reply, Send, as_get, error_reply, headers_of, read_body, respond
from serving.retraining_trigger.core import Request
from serving.retraining_trigger.events import alarms, ask
from serving.retraining_trigger.service import Triggers

SERVER = "retraining_trigger"
TRACED = ("POST /", "POST /v1/retrain")
ROUTES = ("POST /", "POST /v1/retrain", "GET /v1/status", "GET /healthz", "GET /metrics")


class App:
    """ASGI."""

    def __init__(self, triggers: Triggers) -> None:
        self._triggers = triggers

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope, headers = as_get(scope), headers_of(scope)
        route = f"{scope['method']} {scope['path']}"
        with server_span(route, headers) if route in TRACED else OFF as span:
            headers = span.headers(headers)
            REQUEST.set(headers)
            status = await self._respond(route, scope, headers, receive, send)
            span.answered(status)

    async def _respond(self, route: str, scope: dict[str, Any], headers: Headers, receive: Receive, send: Send) -> int:
        start, path, query = time.perf_counter(), scope["path"], scope.get("query_string", b"")
        try:
            reply = await self._answer(route, query, headers, receive)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
            reply = error_reply(error)
        if route in ROUTES:
            telemetry.REQUESTS.labels(SERVER, path, reply.status).inc()
            telemetry.REQUEST_SECONDS.labels(SERVER, path).observe(time.perf_counter() - start)
        await respond(send, reply)
        return reply.status

    async def _answer(self, route: str, query: bytes, headers: Headers, receive: Receive) -> Reply:
        match route:
            case "POST /":
                body, triggers = await read_body(receive, headers), self._triggers
                asked = alarms(headers, body, triggers.models, triggers.default)
                CURRENT.get().link(request.traceparent for _, request in asked)
            case "POST /v1/retrain":
                asked = [ask(await read_body(receive, headers), datetime.now(UTC))]
            case "GET /v1/status":
                return Reply(orjson.dumps(self._triggers.of(_workload(query)).status()))
            case "GET /healthz":
                return Reply(orjson.dumps({"trouble": self._triggers.trouble}))
            case "GET /metrics":
                return Reply(await asyncio.to_thread(generate_latest), content_type=CONTENT_TYPE_LATEST.encode())
            case _:
                raise NotFound(f"no {route}; there are {', '.join(ROUTES)}")
        said = await asyncio.to_thread(self._take, asked)
        return Reply(orjson.dumps({"requests": said}), status=202)

    def _take(self, asked: Sequence[tuple[str, Request]]) -> list[dict[str, str]]:
        """What became of each, in order; a workload that is not there refuses all of them."""
        triggers = [self._triggers.of(workload) for workload, _ in asked]
        return [trigger.take([request])[0] for trigger, (_, request) in zip(triggers, asked, strict=True)]


def _workload(query: bytes) -> str:
    """The one that `?workload=` names, or none."""
    return parse_qs(query.decode("latin-1")).get("workload", [""])[-1]
