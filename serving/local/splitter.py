"""Knative's routing on this machine: one address in front of the revisions of a predictor, a choice for each request.

Requests and answers go through as they are, byte for byte; only the length, the status and one header are looked at,
since the splitter lies on the hot path. `Knative-Serving-Tag: prev` asks for the revision that was last rolled out,
`latest` for the newest. Which revisions there are, and when one is ready, is `services.py`'s.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import httptools

from serving.lean import MAX_BODY_BYTES
from serving.local.manifest import LOOPBACK
from serving.local.revision_metrics import RevisionMetrics

MAX_HEAD_BYTES: Final = 64 << 10
CONNECT_TIMEOUT_S: Final = 2.0
TAG: Final = b"\r\nknative-serving-tag:"
LENGTH: Final = b"\r\ncontent-length:"
CHUNKED: Final = b"\r\ntransfer-encoding:"


class Upstream:
    """A revision as a place to send requests to; its ports move when its server is started again elsewhere."""

    def __init__(self, revision: str) -> None:
        self.revision = revision
        self.port = self.grpc_port = 0
        self.in_flight = 0
        self.idle: list[_ServerSide] = []

    def close(self) -> None:
        """Close idle connections; those in use close after their answer."""
        while self.idle:
            self.idle.pop().close()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no request is under way; False when some still are after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return self.in_flight == 0


class Splitter:
    """The address of one predictor. `route` says who answers; `start` listens."""

    def __init__(
        self, service: str, metrics: RevisionMetrics, percentile: Callable[[], float] = lambda: random.random() * 100
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._percentile = percentile
        self._stable: Upstream | None = None
        self._canary: Upstream | None = None
        self._percent = 0
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, port: int = 0) -> None:
        """Listen on the loopback interface; a free port unless one is named."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _ClientSide(self), LOOPBACK, port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def route(self, stable: Upstream | None, canary: Upstream | None = None, percent: int = 0) -> None:
        """From now on: `percent` of requests to the canary, the rest to the stable revision; None: nobody is there."""
        self._stable, self._canary, self._percent = stable, canary, percent

    @property
    def traffic(self) -> dict[str, int]:
        """Revision → its part of 100."""
        if self._stable is None:
            return {}
        if self._canary is None:
            return {self._stable.revision: 100}
        return {self._stable.revision: 100 - self._percent, self._canary.revision: self._percent}

    def pick(self, tag: bytes) -> Upstream | None:
        canary = self._canary
        if canary is None or tag == b"prev":
            return self._stable
        return canary if tag == b"latest" or self._percentile() < self._percent else self._stable

    def record(self, upstream: Upstream, status: int, seconds: float) -> None:
        self._metrics.record(self._service, upstream.revision, status, seconds)


class _ClientSide(asyncio.Protocol):
    """A connection of somebody who asks: one request at a time is sent on, further ones wait in the buffer."""

    def __init__(self, splitter: Splitter) -> None:
        self._splitter = splitter
        self._buffer = bytearray()
        self._transport: Any = None
        self._exchange: _Exchange | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._exchange is None:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        if self._exchange is not None:
            self._exchange.given_up()

    def answer(self, data: bytes, keep_open: bool) -> None:
        self._exchange = None
        if self._transport is None:
            return
        self._transport.write(data)
        if not keep_open:
            self._transport.close()
        elif self._buffer:
            self._next()

    def _next(self) -> None:
        """Send on the request in the buffer, when it is whole."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                self.answer(_error(431, "the head of the request is too long"), keep_open=False)
            return
        head = bytes(self._buffer[: end + 2]).lower()
        if CHUNKED in head or head.startswith(b"head "):
            self.answer(_error(411, "wanted a request with content-length, and not HEAD"), keep_open=False)
            return
        length = _field(head, LENGTH) or b"0"
        size = end + 4 + int(length) if length.isdigit() else MAX_BODY_BYTES + MAX_HEAD_BYTES + 1
        if size > MAX_BODY_BYTES + MAX_HEAD_BYTES:
            self.answer(_error(413, f"the body is too long; wanted at most {MAX_BODY_BYTES} bytes"), keep_open=False)
        elif len(self._buffer) >= size:
            request = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._send(request, _field(head, TAG))

    def _send(self, request: bytes, tag: bytes) -> None:
        upstream = self._splitter.pick(tag)
        if upstream is None:
            self.answer(_error(503, "no revision of the predictor is ready"), keep_open=True)
            return
        self._exchange = _Exchange(self._splitter, upstream, self, request)
        self._exchange.begin()


class _Exchange:
    """One request on its way to a revision and back."""

    __slots__ = ("_began", "_client", "_done", "_request", "_server", "_splitter", "_upstream")

    def __init__(self, splitter: Splitter, upstream: Upstream, client: _ClientSide, request: bytes) -> None:
        self._splitter = splitter
        self._upstream = upstream
        self._client = client
        self._request = request
        self._server: _ServerSide | None = None
        self._done = False
        self._began = time.perf_counter()
        upstream.in_flight += 1

    def begin(self) -> None:
        idle = self._upstream.idle
        while idle:
            server = idle.pop()
            if server.is_open:
                self._server = server
                server.send(self._request, self)
                return
        connecting = asyncio.ensure_future(self._connect())
        _CONNECTING.add(connecting)
        connecting.add_done_callback(_CONNECTING.discard)

    async def _connect(self) -> None:
        loop, port = asyncio.get_running_loop(), self._upstream.port
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, server = await loop.create_connection(lambda: _ServerSide(port), LOOPBACK, port)
        except (OSError, TimeoutError) as error:
            self.failed(f"{self._upstream.revision} cannot be reached: {error!r}")
            return
        if self._done:
            server.close()
            return
        self._server = server
        server.send(self._request, self)

    def completed(self, status: int, data: bytes, keep_open: bool) -> None:
        server, upstream = self._server, self._upstream
        if server is not None and keep_open and server.port == upstream.port:
            upstream.idle.append(server)
        elif server is not None:
            server.close()
        self._end(status, data, keep_open)

    def closed_while_idle(self) -> None:
        """The server had closed the kept-open connection before it saw the request: it is sent again."""
        self._server = None
        if not self._done:
            self.begin()

    def failed(self, reason: str) -> None:
        self._end(503, _error(503, reason), keep_open=True)

    def given_up(self) -> None:
        """Whoever asked is gone, after a timeout most likely: that counts against the revision."""
        if self._server is not None:
            self._server.close()
        self._end(504, b"", keep_open=False)

    def _end(self, status: int, data: bytes, keep_open: bool) -> None:
        if self._done:
            return
        self._done = True
        self._upstream.in_flight -= 1
        self._splitter.record(self._upstream, status, time.perf_counter() - self._began)
        self._client.answer(data, keep_open)


_CONNECTING: Final[set[asyncio.Future[None]]] = set()
"""Keeps connection attempts alive: the loop holds tasks weakly."""


class _ServerSide(asyncio.Protocol):
    """A connection to a revision; answers are collected whole, so that half an answer is an error and not passed on."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_open = False
        self._used = False
        self._transport: Any = None
        self._exchange: _Exchange | None = None
        self._parts: deque[bytes] = deque()
        self._parser: Any = None

    def send(self, request: bytes, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)

    def close(self) -> None:
        self.is_open = False
        self._exchange = None
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.close()  # nobody asked
            return
        self._parts.append(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            exchange = self._exchange
            self.close()
            if exchange is not None:
                exchange.failed(f"the answer is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if self._used and not self._parts:
            exchange.closed_while_idle()
        else:
            exchange.failed(f"the connection was closed before the answer was complete ({exc or 'by the server'})")

    def on_message_complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._used = True
        if exchange is not None:
            exchange.completed(self._parser.get_status_code(), data, self._parser.should_keep_alive())


def _field(head: bytes, name: bytes) -> bytes:
    """The value of a header in a head in lower case; empty where it is not there."""
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    return head[start : head.find(b"\r\n", start)].strip()


def _error(status: int, text: str) -> bytes:
    body = b'{"error":"%s"}' % text.replace("\\", "/").replace('"', "'").encode()
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    head = b"HTTP/1.1 %d Error\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
    return head % (status, retry, len(body)) + body
