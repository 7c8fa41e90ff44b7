"""Whether the event loop does a piece of blocking work itself, or hands it to a thread.

A file of this machine takes some events in less time than it takes to reach a thread and come back: the thread asks for
the interpreter anew at each statement, against a loop that is busy. So the loop does it, for as long as it is quick. A
disk that holds it up twice in a row gets its work from a thread for a while, and holds up those who wait for it alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

SLOW_S: Final = 0.05
"""Work that held the loop for longer was slow."""
SLOW_IN_A_ROW: Final = 2
"""One alone may have waited for a core, which a thread would wait for as well."""
PAUSE_S: Final = 1.0
"""How long a thread does it then."""


class AtOnce:
    """`allowed` until work `timed` here was slow twice in a row; again after PAUSE_S."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slow = 0
        self._from = float("-inf")

    @property
    def allowed(self) -> bool:
        return self._clock() >= self._from

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around work in the event loop, whether or not it succeeds."""
        began = self._clock()
        try:
            yield
        finally:
            now = self._clock()
            self._slow = self._slow + 1 if now - began > SLOW_S else 0
            if self._slow >= SLOW_IN_A_ROW:
                self._from = now + PAUSE_S
