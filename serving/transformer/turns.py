"""Requests of this process about one entity are answered one after another, so that the second sees the first.

A courtesy, not a guarantee: another replica may answer at the same moment, and the store puts both events in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Turn:
    """A lock, and how many requests hold it or wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Turns:
    """One lock per id in use."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    @asynccontextmanager
    async def of(self, keys: Iterable[str]) -> AsyncIterator[None]:
        """Hold these entities; who comes first is answered first."""
        names = sorted(set(keys))  # sorted: two requests with the same two entities must not wait for each other
        turns = [self._turns.setdefault(name, _Turn()) for name in names]
        for turn in turns:
            turn.users += 1
        held: list[_Turn] = []
        try:
            for turn in turns:
                await turn.lock.acquire()
                held.append(turn)
            yield
        finally:
            for turn in held:
                turn.lock.release()
            for name, turn in zip(names, turns, strict=True):
                turn.users -= 1
                if not turn.users:
                    del self._turns[name]
