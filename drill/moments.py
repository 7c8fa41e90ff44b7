"""What happened in a drill, and how long it waited for what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

RETRAINING_PATIENCE_S: Final = 1800.0
"""Longest wait for a retraining, and for what waits for one, in seconds."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened."""

    day: float
    """Of the drill, with its fraction."""
    what: str
    """alarm, alarm_lasts, recovered, warning, silence, retraining, canary, promoted, rolled_back, chaos, day."""
    detail: str
    wall: float
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Stopwatch:
    """Adds up the wall seconds of what the drill waits for."""

    spent: dict[str, float] = field(default_factory=dict)
    """What was waited for → seconds."""

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Counts the time spent inside."""
        began = time.perf_counter()
        yield
        self.spent[what] = self.spent.get(what, 0.0) + time.perf_counter() - began
