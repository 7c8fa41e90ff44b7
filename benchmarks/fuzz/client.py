"""A raw HTTP/1.1 client that sends bytes as they are and reads what comes back; nothing is corrected on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

HEAD_END: Final = b"\r\n\r\n"
LIMIT: Final = 32 << 20


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Ended(ConnectionError):
    """The server ended the connection before an answer was complete."""


@dataclass(slots=True)
class Connection:
    """One connection; `read` gives the next answer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: int = field(default=0)
    received: bytearray = field(default_factory=bytearray)
    """What came since the last request was sent, as it came."""

    @classmethod
    async def to(cls, address: Address) -> Connection:
        return cls(*await asyncio.open_connection(address.host, address.port, limit=LIMIT))

    async def send(self, pieces: Sequence[bytes], *, pause_s: float = 0.0) -> None:
        """Write the pieces one after the other; a server that has ended meanwhile may still have answered."""
        try:
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
                if pause_s and len(pieces) > 1:
                    await asyncio.sleep(pause_s)
        except ConnectionError:
            return

    def end_sending(self) -> None:
        if self.writer.can_write_eof() and not self.writer.is_closing():
            self.writer.write_eof()

    async def read(self, method: str) -> Answer:
        """The next answer; interim ones are passed over. Raises Ended."""
        self.used += 1
        try:
            while True:
                status, headers = await self._head()
                if status >= 200 or status == 101:
                    break
            if method == "HEAD" or status in (204, 304):
                return Answer(status, headers, b"")
            return Answer(status, headers, await self._body(headers))
        except asyncio.IncompleteReadError as error:
            self.received += error.partial
            raise Ended(str(error)) from error
        except ConnectionError as error:
            raise Ended(str(error)) from error

    async def rest(self) -> bytes:
        """What else arrived, until the server ends the connection."""
        try:
            return await self.reader.read(1 << 16)
        except ConnectionError:
            return b""

    def close(self) -> None:
        self.writer.close()

    async def _head(self) -> tuple[int, dict[str, str]]:
        head = (await self._until(HEAD_END)).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        version, _, status = first.partition(" ")
        if not version.startswith("HTTP/1.") or not status[:3].isdigit():
            raise ValueError(f"no answer begins like this: {first[:80]!r}")
        pairs = (line.partition(":") for line in lines)
        return int(status[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int((await self._until(b"\r\n")).split(b";")[0], 16):
                parts.append(await self._exactly(size))
                await self._exactly(2)
            await self._until(b"\r\n")
            return b"".join(parts)
        if "content-length" in headers:
            return await self._exactly(int(headers["content-length"]))
        rest = await self.reader.read(LIMIT)
        self.received += rest
        return rest

    async def _until(self, end: bytes) -> bytes:
        return self._kept(await self.reader.readuntil(end))

    async def _exactly(self, size: int) -> bytes:
        return self._kept(await self.reader.readexactly(size))

    def _kept(self, data: bytes) -> bytes:
        self.received += data
        return data
