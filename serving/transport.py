"""uvicorn's HTTP protocol, with an answer's head and body in one write: one system call and one wake-up of the client.

uvicorn writes the head when an application starts to answer; here it waits for the first part of the body.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """For uvicorn's `http` setting."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_HoldingHeads(transport))  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]  # an answer to HEAD has no body
        super().on_response_complete()


class _HoldingHeads:
    """A transport that holds an answer's head back until the next write."""

    __slots__ = ("_head", "_transport", "write_now")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""
        self.write_now = transport.write

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100"):
            self._head = data
            return
        self.write_now(data)

    def flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self.write_now(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
