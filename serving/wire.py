"""uvicorn's HTTP/1.1 protocol, made strict, patient within bounds, and deaf to offers of another protocol.

A server alone must be right: a cluster has no gateway of ours in front. uvicorn with httptools (0.54 with 0.9) stops
parsing at an `Upgrade`, which loses the body; takes trailers for headers; ends a client that has closed its sending
side; writes a refusal into the middle of the answers before it; and waits for ever for a slow request. This class cures
those through the hooks of its parser and of asyncio's protocols; `serving.lean` does what needs no socket.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 << 10
TOO_MANY: Final = f"the headers have more than {MAX_HEAD_BYTES} bytes"
LINGER_S: Final = 2.0
"""How long a refused client may go on sending before the connection is cut, so that it can read why."""
OFFERS: Final = frozenset({b"upgrade", b"http2-settings", b"connection"})
"""Headers that offer another protocol, left out where a head is read again."""


class Refused(Exception):
    """A request that is not answered by the application; its connection ends."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class StrictProtocol(HttpToolsProtocol):
    """For uvicorn's `http` setting."""

    read_timeout_s = 30.0
    """Longest time from a request's first byte to its last, and for a client to read what was written."""
    watch_s = 5.0
    """How often a connection is looked at for that: a timer for each request would cost more."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reading_since: float | None = None
        """When the request began that is not complete yet; None between requests."""
        self._stuck_since: float | None = None
        """When the client was first seen not to read its answers."""
        self._heads = self._head_bytes = self._later_bytes = 0
        """Heads that were begun; of the last one the headers' bytes, and what came after the piece that it began in."""
        self._begun = self._in_body = self._has_host = False
        """What is read: a request, its body; whether its host is known."""
        self._due = 0
        """Answers that are not out yet, of requests whose head was read."""
        self._refusal: bytes | None = None
        """Written when no answer is due before it."""
        self._lingering = False
        self._watch: asyncio.TimerHandle | None = None

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._reading_since = self.loop.time()
        self._watch = self.loop.call_later(self.watch_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return  # what follows a refused request is not a request
        self._unset_keepalive_if_required()
        if self._reading_since is None:
            self._reading_since = self.loop.time()
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Refused) else Refused(400, f"not HTTP/1.1: {cause or error}"))

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client may close its sending side and wait for the answers to what it sent."""
        if self._lingering or self.cycle is None:
            return False
        if self._begun:
            self._refuse(Refused(400, "the connection ended inside a request"))
            return True
        if not self._due:
            return False
        self.cycle.keep_alive = False
        return True

    # uvicorn's

    def on_response_complete(self) -> None:
        self._due -= 1
        super().on_response_complete()
        if self._refusal is not None and not self._due:
            self._end()

    # httptools'

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading_since = self.loop.time()
        self._heads += 1
        self._head_bytes = self._later_bytes = 0
        self._begun, self._in_body, self._has_host = True, False, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # a trailer: nobody here has asked for one
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise Refused(431, TOO_MANY)
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            if self._has_host:
                raise Refused(400, "two host headers")
            self._has_host = True
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise Refused(400, f"transfer-encoding is {value[:40].decode('latin-1')!r}; wanted chunked")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise Refused(405, "CONNECT is for proxies; this is none")
        if self.parser.should_upgrade():
            return  # parsed again, without the offer
        if not self._has_host and self.parser.get_http_version() == "1.1":
            raise Refused(400, "there is no host header")
        super().on_headers_complete()
        self._due += 1
        self._in_body = True

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._reading_since = None
        self._begun = self._in_body = False

    # ours

    def _feed(self, data: bytes) -> None:
        heads, length = self._heads, len(data)
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = self._head_without_offer() + data[offer.args[0] :]
            else:
                break
        if self._begun and not self._in_body and self._heads == heads:
            self._later_bytes += length  # one header may have no end
            if self._later_bytes > MAX_HEAD_BYTES:
                self._refuse(Refused(431, TOO_MANY))

    def _head_without_offer(self) -> bytes:
        """The head that was just parsed, without its offer of another protocol (RFC 9110, 7.8: it may be ignored)."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in OFFERS]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            lines.append(b"connection: close")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join([*lines, b"", b""])

    def _refuse(self, refused: Refused) -> None:
        """Answer the request that is being read with an error, after the answers before it, and end the connection."""
        if self._refusal is not None:
            return
        self._refusal = _refusal(refused)
        if self._in_body and not self.cycle.response_complete:
            self._abandon(self.cycle)
        if not self._due:
            self._end()

    def _abandon(self, cycle: Any) -> None:
        """Keep the rest of a request from the application, and the application's answer from the client."""
        self._due -= 1
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        else:
            cycle.disconnected = True
            cycle.message_event.set()

    def _end(self) -> None:
        if self._lingering or self.transport.is_closing():
            return
        self._lingering = True
        self.transport.write(self._refusal or b"")
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _look(self) -> None:
        """End what takes too long; again in `watch_s`."""
        now = self.loop.time()
        self._stuck_since = (self._stuck_since or now) if self.flow.write_paused else None
        if self._stuck_since is not None and now - self._stuck_since > self.read_timeout_s:
            return self.transport.abort()
        if self._reading_since is not None and now - self._reading_since > self.read_timeout_s:
            if self._begun:
                self._refuse(Refused(408, f"the request was not complete within {self.read_timeout_s:g} s"))
            elif not self._due:
                return self.transport.close()
        self._watch = self.loop.call_later(self.watch_s, self._look)
        return None


def _refusal(refused: Refused) -> bytes:
    body = json.dumps({"error": str(refused)}).encode()
    head = f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
