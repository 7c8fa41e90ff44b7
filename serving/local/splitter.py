"""Knative's routing on this machine: one address in front of the revisions of a predictor, a choice for each request.

Requests and answers go through as they are, byte for byte; only the length, the status and one header are looked at,
since the splitter lies on the hot path. `Knative-Serving-Tag: prev` asks for the revision that was last rolled out,
`latest` for the newest. Which revisions there are, and when one is ready, is `services.py`'s; the way to a revision and
back is `exchange.py`'s.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

from serving.lean import MAX_BODY_BYTES
from serving.local.exchange import Exchange, Upstream, error
from serving.local.manifest import LOOPBACK
from serving.local.revision_metrics import RevisionMetrics

MAX_HEAD_BYTES: Final = 64 << 10
TAG: Final = b"\r\nknative-serving-tag:"
LENGTH: Final = b"\r\ncontent-length:"
CHUNKED: Final = b"\r\ntransfer-encoding:"


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
        self._exchange: Exchange | None = None

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
                self.answer(error(431, "the head of the request is too long"), keep_open=False)
            return
        head = bytes(self._buffer[: end + 2]).lower()
        if CHUNKED in head or head.startswith(b"head "):
            self.answer(error(411, "wanted a request with content-length, and not HEAD"), keep_open=False)
            return
        length = _field(head, LENGTH) or b"0"
        size = end + 4 + int(length) if length.isdigit() else MAX_BODY_BYTES + MAX_HEAD_BYTES + 1
        if size > MAX_BODY_BYTES + MAX_HEAD_BYTES:
            self.answer(error(413, f"the body is too long; wanted at most {MAX_BODY_BYTES} bytes"), keep_open=False)
        elif len(self._buffer) >= size:
            request = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._send(request, _field(head, TAG))

    def _send(self, request: bytes, tag: bytes) -> None:
        upstream = self._splitter.pick(tag)
        if upstream is None:
            self.answer(error(503, "no revision of the predictor is ready"), keep_open=True)
            return
        self._exchange = Exchange(upstream, request, self._splitter.record, self.answer)
        self._exchange.begin()


def _field(head: bytes, name: bytes) -> bytes:
    """The value of a header in a head in lower case; empty where it is not there."""
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    return head[start : head.find(b"\r\n", start)].strip()
