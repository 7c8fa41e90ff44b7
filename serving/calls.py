"""Calls of one server over kept-open connections, by aiohttp's client: bounded, timed, and never through a proxy.

Interim answers (1xx) are passed over, redirects and compressed bodies are given as they came, cookies are forgotten.
Nothing is sent twice here but a GET whose kept-open connection had just been closed; who calls decides about the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import aiohttp

from millrace.errors import Unavailable

KEEP_OPEN_S: Final = 15.0
"""A connection that lies idle longer is closed here, long before a server of ours closes it (65 s)."""
CONNECT_TIMEOUT_S: Final = 2.0
UNSENT: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers that aiohttp would add: nobody here reads them, and an answer shall not come compressed."""

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Response:
    """Status, headers and body, as they came."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


class Calls:
    """Of `host:port`: at most `limit` at once, others wait for their turn. The session opens with the first call."""

    def __init__(self, host: str, port: int, *, limit: int = 64) -> None:
        self.host, self.port = host, port
        # A gateway that routes by host may know the bare name only.
        authority = host if port == 80 else f"{host}:{port}"
        self._base = f"http://{authority}"
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Iterable[Header] = (), *, timeout_s: float = 30.0
    ) -> Response:
        """Send and await the whole answer; raises Unavailable when it cannot be had in `timeout_s`."""
        named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(method, path, body, named)
        except TimeoutError as error:
            raise Unavailable(f"{self.host}:{self.port} did not answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{self.host}:{self.port} cannot be reached: {error or repr(error)}") from error

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

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
            return Response(answer.status, answer.raw_headers, await answer.read())

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limit, keepalive_timeout=KEEP_OPEN_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=UNSENT,
        )
        return self._session
