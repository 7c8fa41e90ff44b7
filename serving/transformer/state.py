"""Recent events that are newer than the online store: kept per entity, in order, until they have been pushed.

A lookup folds the pending entries of an entity into the state that the store gave; folding twice changes nothing, so
it does not matter whether a push happened in between. The journal is the same thing on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from millrace.inputs import RecentEvents
from serving.transformer.journal import Entry

SLACK: Final = 32
"""States keep this many events beyond N, so that one scored again still finds the N before it."""
MAX_KEYS: Final = 50_000
"""Entities with pending entries in memory; past it (the store is down for long) the oldest are on disk only."""


@dataclass(slots=True)
class _Turn:
    """A lock, and how many requests hold it or wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Overlay:
    """Pending entries by the entity's id, oldest entity first, and one lock per id in use."""

    def __init__(self, history_length: int) -> None:
        self._capacity = history_length + SLACK
        self._pending: dict[str, tuple[Entry, ...]] = {}
        self._turns: dict[str, _Turn] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._pending)

    @asynccontextmanager
    async def in_order(self, keys: Iterable[str]) -> AsyncIterator[None]:
        """Hold these entities: requests about one are answered one after another, in order of arrival."""
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

    def pending(self, keys: Iterable[str]) -> dict[str, tuple[Entry, ...]]:
        """What the store may not know of these entities; take it *before* asking the store."""
        return {key: self._pending[key] for key in keys if key in self._pending}

    def fold(self, state: RecentEvents, entries: Sequence[Entry]) -> RecentEvents:
        """The state with these entries in it."""
        for entry in entries:
            state = state.append(entry.event_id, entry.event_us, entry.values, self._capacity)
        return state

    def add(self, entries: Iterable[Entry]) -> None:
        """Remember scored events until `pushed`; the oldest entity leaves when there are too many."""
        for entry in entries:
            self._pending[entry.key] = (*self._pending.get(entry.key, ()), entry)
        while len(self._pending) > MAX_KEYS:
            del self._pending[next(iter(self._pending))]
            self.evicted += 1

    def pushed(self, entries: Mapping[str, Sequence[Entry]]) -> None:
        """Forget entries that the store has now; newer ones of the same entities stay."""
        for name, done in entries.items():
            left = tuple(entry for entry in self._pending.get(name, ()) if entry not in done)
            if left:
                self._pending[name] = left
            else:
                self._pending.pop(name, None)

    def oldest(self, count: int) -> dict[str, tuple[Entry, ...]]:
        """Up to so many entities and their pending entries, those that have waited longest first."""
        return {name: self._pending[name] for name, _ in zip(list(self._pending), range(count), strict=False)}
