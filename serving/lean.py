"""A lean ASGI route for the hot path, in front of another application, and the one table from errors to HTTP status.

A handler takes a body and headers and gives a `Reply`. The routes named are POSTs answered here, at a third of the cost
of the SDK's own path; every other request, and CloudEvents, go on to the application behind.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from millrace.errors import InvalidInput, NotFound, Unavailable
from millrace.observe.progress import REQUEST, log
from millrace.observe.telemetry import REQUEST_SECONDS, REQUESTS
from millrace.observe.tracing import server_span
from serving.tensors import TooLarge

MAX_BODY_BYTES: Final = 8 << 20
"""Larger requests are refused with 413 before they are read."""

STATUS: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (TooLarge, 413),
    (InvalidInput, 400),
    (NotFound, 404),
    (Unavailable, 503),
)

Headers = Mapping[bytes, bytes]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, body and further headers of an answer; `content-length` is added."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


Handler = Callable[[bytes, Headers], Awaitable[Reply]]


class Measure:
    """Counts and times the answers of one route of one server; its labels are bound once. Names its spans."""

    def __init__(self, server: str, route: str, path: str = "") -> None:
        self._server, self._route = server, route
        self.name, self.attributes = f"POST {path}", {"http.request.method": "POST", "http.route": path}
        self._seconds = REQUEST_SECONDS.labels(server, route)
        self._answers: dict[int, Any] = {}

    def __call__(self, status: int, started: float) -> None:
        """An answer with `status` to a request that was complete at `started` (time.perf_counter)."""
        counter = self._answers.get(status)
        if counter is None:
            counter = self._answers[status] = REQUESTS.labels(self._server, self._route, str(status))
        counter.inc()
        self._seconds.observe(time.perf_counter() - started)


class LeanRoutes:
    """ASGI: POSTs to a path in `handlers` are answered here, and measured as `server`'s; all else by `behind`."""

    def __init__(
        self, handlers: Mapping[str, Handler], behind: Callable[..., Awaitable[None]], server: str = "server"
    ) -> None:
        self._handlers = {path: (handler, Measure(server, _route(path), path)) for path, handler in handlers.items()}
        self._behind = behind

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        found = self._handlers.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        if scope["type"] != "http":
            return await self._behind(scope, receive, send)
        headers = dict(scope["headers"])
        if found is not None and not _is_cloud_event(headers):
            return await _answer(*found, headers, receive, send)
        if _declared_length(headers) > MAX_BODY_BYTES:
            return await respond(send, error_reply(_too_large(_declared_length(headers))))
        await self._behind(scope, receive, send)


async def _answer(handler: Handler, measure: Measure, headers: Headers, receive: Receive, send: Send) -> None:
    started = time.perf_counter()
    with server_span(measure.name, headers, measure.attributes) as span:
        headers = span.headers(headers)
        REQUEST.set(headers)
        try:
            body = await read_body(receive, headers)
            started = time.perf_counter()
            reply = await handler(body, headers)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
            reply = error_reply(error)
        await respond(send, reply)
        measure(reply.status, started)
        span.answered(reply.status)


async def read_body(receive: Receive, headers: Headers) -> bytes:
    """The whole body; raises TooLarge past MAX_BODY_BYTES, by its announced length where there is one."""
    if _declared_length(headers) > MAX_BODY_BYTES:
        raise _too_large(_declared_length(headers))
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large(len(body))
    return body


async def respond(send: Send, reply: Reply) -> None:
    head = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": head})
    await send({"type": "http.response.body", "body": reply.body})


def error_reply(error: BaseException) -> Reply:
    """An error as the protocol's `{"error": text}`; what was not raised on purpose is logged and not shown."""
    for kind, status in STATUS:
        if isinstance(error, kind):
            retry = ((b"retry-after", b"1"),) if status == 503 else ()
            return Reply(orjson.dumps({"error": str(error)}), status, headers=retry)
    log("request_failed", error=repr(error), traceback="".join(traceback.format_exception(error)))
    return Reply(orjson.dumps({"error": "internal error; the server's log has the traceback"}), 500)


def _is_cloud_event(headers: Headers) -> bool:
    """Both modes of CloudEvents over HTTP; they have their own decoding in the SDK."""
    return b"ce-specversion" in headers or headers.get(b"content-type", b"").startswith(b"application/cloudevents")


def _route(path: str) -> str:
    """What metrics call a path: v1, v2, or the last part of another."""
    return "v1" if path.endswith(":predict") else "v2" if path.endswith("/infer") else path.rpartition("/")[2]


def _declared_length(headers: Headers) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _too_large(got: int) -> TooLarge:
    return TooLarge(f"the body has {got} bytes; wanted at most {MAX_BODY_BYTES}. Send fewer rows.")
