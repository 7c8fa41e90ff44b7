"""What a recent view must not forget: one entity's events in order, kept until the online store has them.

Overlay, journal, pusher and cache of the view; a workload without a recent view has none of it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from millrace.observe.progress import log
from millrace.observe.telemetry import JOURNAL_PENDING
from millrace.settings import Settings
from serving.transformer.core import Prepared
from serving.transformer.journal import Entry, Journal
from serving.transformer.pushed import Pushed
from serving.transformer.pusher import Pusher, StateStore
from serving.transformer.recent import RecentCache
from serving.transformer.state import Overlay


class Memory:
    """The recent events of `entity`; the journal of an earlier process is in it from the start."""

    def __init__(
        self, entity: str, workload: str, store: StateStore, options: Settings, cache: RecentCache | None
    ) -> None:
        self.entity = entity
        self.overlay = Overlay(options.history_length)
        self._cache = cache
        folder = options.home / "serving" / "journal" / workload
        self._journal = Journal(folder)
        refilled = None if cache is None else cache.forget
        pushed = Pushed(folder / "pushed", options.lake)
        self._pusher = Pusher(store, self.overlay, self._journal, pushed, refilled)
        self.overlay.add(self._journal.replay())
        JOURNAL_PENDING.set_function(lambda: len(self.overlay))

    @property
    def generation(self) -> int:
        """Of what the cache knows; taken before a lookup, handed back with what came of it."""
        return 0 if self._cache is None else self._cache.generation

    def in_order(self, keys: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """Hold these entities until their events are remembered."""
        return self.overlay.in_order(keys)

    def pending(self, keys: Sequence[str]) -> dict[str, tuple[Entry, ...]]:
        """What the store may not know of these entities; take it *before* asking the store."""
        return self.overlay.pending(keys)

    def remember(self, prepared: Prepared, generation: int) -> None:
        """Before the answer goes out; raises Unavailable when the journal's disk refuses."""
        self._journal.append(prepared.entries)
        self.overlay.add(prepared.entries)
        if self._cache is not None and not prepared.degraded:
            self._cache.keep(prepared.after, generation)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs until it is cancelled."""
        log("journal_replayed", entities=len(self.overlay))
        return [self._pusher.sync_forever(), self._pusher.push_forever()]

    def close(self) -> None:
        self._journal.close()
