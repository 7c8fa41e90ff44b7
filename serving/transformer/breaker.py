"""A circuit breaker: after some failures in a row nobody waits for the online store, until a probe succeeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from millrace.observe.progress import log
from millrace.observe.telemetry import BREAKER_OPEN

FAILURES: Final = 5
"""Lookups in a row that fail before the breaker opens."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Time until a lookup is let through as a probe; doubled with each probe that fails."""


class Breaker:
    """Closed, or open with one probe per pause; `allows` asks, `succeeded` and `failed` tell."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._probe_at: float | None = None
        self._probing = False
        BREAKER_OPEN.set(0)

    @property
    def open(self) -> bool:
        return self._probe_at is not None

    def allows(self) -> bool:
        """Whether to ask the store now; the one who is told so while it is open is the probe."""
        if self._probe_at is None:
            return True
        now = self._clock()
        if now < self._probe_at:
            return False
        self._probe_at = now + self._pause_s  # should the probe never report, another one comes
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        if self._probe_at is not None:
            self._probe_at, self._pause_s, self._probing = None, FIRST_PAUSE_S, False
            BREAKER_OPEN.set(0)
            log("breaker_closed")

    def failed(self, error: BaseException) -> None:
        self._failures += 1
        if self._probe_at is not None:
            if self._probing:  # and not a lookup that began before it opened
                self._probing = False
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                self._probe_at = self._clock() + self._pause_s
        elif self._failures >= FAILURES:
            self._probe_at = self._clock() + self._pause_s
            BREAKER_OPEN.set(1)
            log("breaker_opened", failures=self._failures, error=repr(error))
