"""What one request brings besides its rows: an id, a trace to belong to, and the time its answer may take."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, replace
from typing import Final

from millrace.errors import InvalidInput, Unavailable
from millrace.events.prediction import MAX_TEXT
from millrace.observe.tracing import CURRENT, OFF
from serving.lean import Headers
from serving.versions import VERSION

REQUEST_ID: Final = b"x-request-id"
DEADLINE: Final = b"x-deadline-ms"
DRY_RUN: Final = b"x-millrace-dry-run"
"""`true`: a trial, which is scored and leaves no trace in any state."""
FORWARDED: Final = (REQUEST_ID, b"traceparent", b"tracestate", b"ce-id")
"""Headers of the client that go on to the predictor; the request id is made where there is none."""
MAX_ID_LENGTH: Final = 128
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]+")


class DeadlineExceeded(Unavailable):
    """The answer was not ready when it had to be."""


@dataclass(frozen=True, slots=True)
class Context:
    """One request: `headers` to forward, and a clock that runs from `started` (`time.perf_counter`)."""

    request_id: str
    headers: tuple[tuple[bytes, bytes], ...]
    traceparent: str | None
    """As events repeat it; None for what is too long or holds other than visible characters."""
    started: float
    ends: float
    version: str | None = None
    """The model version that the client asked for by name."""
    dry_run: bool = False
    alone: bool = False
    """Asked for something of its own, so that it is not scored together with others."""

    @classmethod
    def of(cls, headers: Headers, deadline_s: float) -> Context:
        """From the request's headers; raises InvalidInput for a deadline or a mark of a trial that is none."""
        now = time.perf_counter()
        request_id = request_id_of(headers)
        found = [(name, headers[name]) for name in FORWARDED[1:] if name in headers]
        trace = headers.get(b"traceparent")
        version, dry_run, asked_s = headers.get(VERSION), _dry_run(headers), _asked_s(headers)
        alone = bool(found) or version is not None or dry_run or asked_s < deadline_s
        return cls(
            request_id,
            ((REQUEST_ID, request_id.encode()), *found),
            trace.decode() if trace and len(trace) <= MAX_TEXT and _VISIBLE.fullmatch(trace) else None,
            now,
            now + min(deadline_s, asked_s),
            version.decode() if version else None,
            dry_run,
            alone or CURRENT.get() is not OFF,
        )

    def with_header(self, header: tuple[bytes, bytes]) -> Context:
        """The same request with one header more to forward."""
        return replace(self, headers=(*self.headers, header))

    def left_s(self) -> float:
        """Seconds until the deadline; raises DeadlineExceeded past it."""
        left = self.ends - time.perf_counter()
        if left <= 0:
            raise self.exceeded()
        return left

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1e3

    def exceeded(self) -> DeadlineExceeded:
        budget_ms = (self.ends - self.started) * 1e3
        return DeadlineExceeded(
            f"no answer within {budget_ms:.0f} ms. Ask again, or allow more with the header {DEADLINE.decode()} "
            "(up to the server's MILLRACE_DEADLINE_MS)."
        )


def request_id_of(headers: Headers) -> str:
    """The client's `ce-id`, else its `x-request-id`, else a new one; one that cannot be an id is replaced."""
    given = (headers.get(b"ce-id") or headers.get(REQUEST_ID) or b"").decode("latin-1").strip()
    fits = 0 < len(given) <= MAX_ID_LENGTH and given.isascii() and given.isprintable()
    return given if fits else secrets.token_hex(16)


def _dry_run(headers: Headers) -> bool:
    text = headers.get(DRY_RUN, b"false").strip().lower()
    if text not in (b"true", b"false"):
        raise InvalidInput(f"header {DRY_RUN.decode()} is {text.decode('latin-1')[:20]!r}; wanted true or false")
    return text == b"true"


def _asked_s(headers: Headers) -> float:
    text = headers.get(DEADLINE)
    if text is None:
        return float("inf")
    text = text.strip()
    if not text.isdigit() or len(text) > 9:
        raise InvalidInput(f"header {DEADLINE.decode()} is {text.decode('latin-1')[:20]!r}; wanted whole milliseconds")
    return int(text) / 1e3
