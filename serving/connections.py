"""Kept-open HTTP/1.1 connections to one server: what the transformer, the gateway and the replay call with.

A general client costs more per request than a small model does. This one writes a request in one piece and parses the
answer with httptools. When the server had closed a connection while it lay idle, the request is sent again on another;
nothing else is retried.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httptools

from millrace.errors import Unavailable

Header = tuple[bytes, bytes]


@dataclass(slots=True)
class Response:
    """Status, headers (names in lower case) and body."""

    status: int
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


class Drainable:
    """Something that requests are sent to, which knows how many are under way."""

    in_flight: int = 0

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no request is under way; False when some still are after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return self.in_flight == 0


class Connections(Drainable):
    """A pool of connections to `host:port`; at most `limit` requests are under way, others wait for their turn."""

    def __init__(self, host: str, port: int, *, limit: int = 64, connect_timeout_s: float = 2.0) -> None:
        self.host, self.port = host, port
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(limit)
        self._connect_timeout_s = connect_timeout_s
        # A gateway that routes by host may know the bare name only.
        self._authority = (host if port == 80 else f"{host}:{port}").encode()

    async def request(
        self, method: bytes, path: bytes, body: bytes = b"", headers: Iterable[Header] = (), *, timeout_s: float = 30.0
    ) -> Response:
        """Send and await the whole answer; raises Unavailable when it cannot be had in `timeout_s`."""
        parts = [method, b" ", path, b" HTTP/1.1\r\nhost: ", self._authority, b"\r\ncontent-length: %d\r\n" % len(body)]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        data = b"".join([*parts, b"\r\n", body])
        self.in_flight += 1
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                return await self._send(data)
        except TimeoutError as error:
            raise Unavailable(f"{self.host}:{self.port} did not answer within {timeout_s:g} s") from error
        except OSError as error:
            raise Unavailable(f"{self.host}:{self.port} cannot be reached: {error}") from error
        finally:
            self.in_flight -= 1

    def close(self) -> None:
        """Close idle connections; those in use close after their answer."""
        while self._idle:
            self._idle.pop().close()

    async def _send(self, data: bytes) -> Response:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                try:
                    return await self._exchange(connection, data)
                except _ClosedWhileIdle:
                    continue
        return await self._exchange(await self._connect(), data)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await loop.create_connection(_Connection, self.host, self.port)
        return connection

    async def _exchange(self, connection: _Connection, data: bytes) -> Response:
        try:
            response = await connection.exchange(data)
        except BaseException:
            connection.close()  # an answer may still be on its way: nobody else may read it
            raise
        if connection.open:
            self._idle.append(connection)
        return response


class _ClosedWhileIdle(ConnectionResetError):
    """The server closed a kept-open connection before it answered anything on it."""


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.open = False
        self._used = False
        self._transport: Any = None
        self._answer: asyncio.Future[Response] | None = None
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._response = Response(0)
        self._body: list[bytes] = []

    async def exchange(self, data: bytes) -> Response:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._answer

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.open = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        silent = self._used and self._response.status == 0 and not self._response.headers
        kind = _ClosedWhileIdle if silent else ConnectionResetError
        self._fail(kind(f"connection closed before the answer was complete ({exc or 'by the server'})"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._response.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._response.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        response, answer = self._response, self._answer
        response.body = b"".join(self._body)
        if not self._parser.should_keep_alive():
            self.close()
        self._used = True
        self._begin()
        if answer is not None and not answer.done():
            answer.set_result(response)
