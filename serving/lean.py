"""A lean ASGI route for the hot path, in front of another application, and the one table from errors to HTTP status.

A handler takes a body and headers and gives a `Reply`. The routes named are POSTs answered here, at a third of the cost
of the SDK's own path; every other request goes on to the application behind. What needs the socket is `wire.py`'s.
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
from serving.inflate import READABLE, UnknownEncoding, inflate
from serving.reads import OTHER_STATE, OtherState
from serving.tensors import TooLarge

MAX_BODY_BYTES: Final = 8 << 20
"""Larger requests are refused with 413 before they are read, or while they are inflated."""
MAX_REASON: Final = 2000
"""Characters of an error's text: it may quote what the client sent."""

STATUS: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (TooLarge, 413),
    (UnknownEncoding, 415),
    (InvalidInput, 400),
    (NotFound, 404),
    (OtherState, OTHER_STATE),
    (Unavailable, 503),
)

FRAMING: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
"""Headers that describe a body as it travelled."""

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
    """ASGI: POSTs to a path in `handlers` are answered here, and measured as `server`'s; all else by `behind`.

    A POST below one of `owned` that no handler has is a 404 without being read: what stands behind would quote it.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        behind: Callable[..., Awaitable[None]],
        server: str = "server",
        owned: tuple[str, ...] = (),
    ) -> None:
        self._handlers = {path: (handler, Measure(server, _route(path), path)) for path, handler in handlers.items()}
        self._behind = behind
        self._owned = owned

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._behind(scope, receive, send)
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            return await self._behind(as_get(scope), receive, send)
        found = self._handlers.get(path) if method == "POST" else None
        if found is not None:
            return await _answer(*found, headers_of(scope), receive, send)
        if method == "POST" and path.startswith(self._owned):
            missing = NotFound(f"no POST {path}; there are {', '.join(self._handlers)}")
            return await respond(send, error_reply(missing))
        return await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """To what stands behind, with the body as it was before it was compressed."""
        try:
            body = await read_body(receive, headers_of(scope))
        except InvalidInput as error:
            return await respond(send, error_reply(error))
        headers = [(name, value) for name, value in scope["headers"] if name not in FRAMING]
        headers.append((b"content-length", b"%d" % len(body)))
        messages = iter(({"type": "http.request", "body": body, "more_body": False},))

        async def again() -> dict[str, Any]:
            return next(messages, {"type": "http.disconnect"})

        await self._behind(scope | {"headers": headers}, again, send)


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


def as_get(scope: dict[str, Any]) -> dict[str, Any]:
    """HEAD is GET without the answer's body, which uvicorn leaves out by the method that it knows."""
    return scope | {"method": "GET"} if scope["method"] == "HEAD" else scope


def headers_of(scope: Mapping[str, Any]) -> Headers:
    """Header → value; of one that came more than once the values joined by commas (RFC 9110, 5.3)."""
    given = scope["headers"]
    headers: dict[bytes, bytes] = dict(given)
    if len(headers) < len(given):
        for name in headers:
            headers[name] = b", ".join(value for known, value in given if known == name)
    return headers


async def read_body(receive: Receive, headers: Headers) -> bytes:
    """The whole body, inflated; raises TooLarge past MAX_BODY_BYTES, by its announced length where there is one."""
    if _declared_length(headers) > MAX_BODY_BYTES:
        raise _too_large(_declared_length(headers))
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = bytearray(body)
        while message.get("more_body"):
            message = await receive()
            parts += message.get("body", b"")
            if len(parts) > MAX_BODY_BYTES:
                raise _too_large(len(parts))
        body = bytes(parts)
    if message["type"] == "http.disconnect":
        raise InvalidInput("the client went before its request was complete")
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else inflate(body, encoding, MAX_BODY_BYTES)


async def respond(send: Send, reply: Reply) -> None:
    head = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": head})
    await send({"type": "http.response.body", "body": reply.body})


def error_reply(error: BaseException) -> Reply:
    """An error as the protocol's `{"error": text}`; what was not raised on purpose is logged and not shown."""
    status, text = said(error)
    details = error.details if isinstance(error, OtherState) else {}
    return Reply(orjson.dumps({"error": text, **details}), status, headers=_ADVICE.get(status, ()))


def said(error: BaseException) -> tuple[int, str]:
    """An error's HTTP status and its text, as valid UTF-8 whatever it quotes."""
    for kind, status in STATUS:
        if isinstance(error, kind):
            return status, str(error)[:MAX_REASON].encode(errors="replace").decode()
    log("request_failed", error=repr(error), traceback="".join(traceback.format_exception(error)))
    return 500, "internal error; the server's log has the traceback"


_ADVICE: Final[Mapping[int, tuple[tuple[bytes, bytes], ...]]] = {
    415: ((b"accept-encoding", READABLE.encode()),),
    503: ((b"retry-after", b"1"),),
}


def _route(path: str) -> str:
    """What metrics call a path: v1, v2, or the last part of another."""
    return "v1" if path.endswith(":predict") else "v2" if path.endswith("/infer") else path.rpartition("/")[2]


def _declared_length(headers: Headers) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _too_large(got: int) -> TooLarge:
    return TooLarge(f"the body has {got} bytes; wanted at most {MAX_BODY_BYTES}. Send fewer rows.")
