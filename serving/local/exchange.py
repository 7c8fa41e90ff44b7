"""One request on its way from the splitter to a revision and back, on kept-open connections.

The answer is collected whole: half an answer is an error, and whoever asked never sees it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import httptools

from serving.connections import Drainable
from serving.local.manifest import LOOPBACK

CONNECT_TIMEOUT_S: Final = 2.0


class Upstream(Drainable):
    """A revision as a place to send requests to; its ports move when its server is started again elsewhere."""

    def __init__(self, revision: str) -> None:
        self.revision = revision
        self.port = self.grpc_port = 0
        self.idle: list[ServerSide] = []

    def close(self) -> None:
        """Close idle connections; those in use close after their answer."""
        while self.idle:
            self.idle.pop().close()


Record = Callable[[Upstream, int, float], None]
"""Takes a revision, the status of its answer and the seconds until then."""
Answer = Callable[[bytes, bool], None]
"""Takes the answer's bytes, and whether the connection of whoever asked stays open."""


class Exchange:
    """One request on its way to a revision and back."""

    __slots__ = ("_answer", "_began", "_done", "_record", "_request", "_server", "_upstream")

    def __init__(self, upstream: Upstream, request: bytes, record: Record, answer: Answer) -> None:
        self._upstream = upstream
        self._request = request
        self._record, self._answer = record, answer
        self._server: ServerSide | None = None
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
                _, server = await loop.create_connection(lambda: ServerSide(port), LOOPBACK, port)
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
        self._end(503, error(503, reason), keep_open=True)

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
        self._record(self._upstream, status, time.perf_counter() - self._began)
        self._answer(data, keep_open)


_CONNECTING: Final[set[asyncio.Future[None]]] = set()
"""Keeps connection attempts alive: the loop holds tasks weakly."""


class ServerSide(asyncio.Protocol):
    """A connection to a revision; answers are collected whole, so that half an answer is an error and not passed on."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_open = False
        self._used = False
        self._transport: Any = None
        self._exchange: Exchange | None = None
        self._parts: deque[bytes] = deque()
        self._parser: Any = None

    def send(self, request: bytes, exchange: Exchange) -> None:
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


def error(status: int, text: str) -> bytes:
    """A whole answer that says what is wrong."""
    body = b'{"error":"%s"}' % text.replace("\\", "/").replace('"', "'").encode()
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    head = b"HTTP/1.1 %d Error\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
    return head % (status, retry, len(body)) + body
