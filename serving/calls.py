"""Calls of one server over kept-open connections, by aiohttp's client: bounded, timed, and never through a proxy.

Interim answers (1xx) are passed over, redirects and compressed bodies are given as they came, cookies are forgotten.
Nothing is sent twice here but a GET whose kept-open connection had just been closed; who calls decides about the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import aiohttp

from millrace.errors import Unavailable

KEEP_OPEN_S: Final = 15.0
"""A connection that lies idle longer is closed here, long before a server of ours closes it (65 s)."""
UNSENT: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers that aiohttp would add: nobody here reads them, and an answer shall not come compressed."""

Header = tuple[bytes, bytes]


@dataclass(slots=True)
class Response:
    """Status, headers (names in lower case) and body, as they came."""

    status: int
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


class Calls:
    """Of `host:port`: at most `limit` at once, others wait for their turn. The session opens with the first call."""

    def __init__(self, host: str, port: int, *, limit: int = 64, connect_timeout_s: float = 2.0) -> None:
        self.host, self.port = host, port
        self.in_flight = 0
        # A gateway that routes by host may know the bare name only.
        authority = host if port == 80 else f"{host}:{port}"
        self._base = f"http://{authority}"
        self._limit, self._connect_timeout_s = limit, connect_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Iterable[Header] = (), *, timeout_s: float = 30.0
    ) -> Response:
        """Send and await the whole answer; raises Unavailable when it cannot be had in `timeout_s`."""
        named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        self.in_flight += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(method, path, body, named)
        except TimeoutError as error:
            raise Unavailable(f"{self.host}:{self.port} did not answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{self.host}:{self.port} cannot be reached: {error or repr(error)}") from error
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no call is under way; False when some still are after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return self.in_flight == 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, method: str, path: str, body: bytes, headers: list[tuple[str, str]]) -> Response:
        session = self._session or self._open()
        url = self._base + path
        async with session.request(method, url, data=body or None, headers=headers, allow_redirects=False) as answer:
            content = await answer.read()
            return Response(answer.status, [(name.lower(), value) for name, value in answer.raw_headers], content)

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limit, keepalive_timeout=KEEP_OPEN_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=UNSENT,
        )
        return self._session
