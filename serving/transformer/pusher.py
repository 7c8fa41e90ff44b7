"""In the background: sync the journal, and push recent events to the online store in batches.

They gather for a moment first, so that an entity is pushed once for several events. A push reads the stored
states, folds the pending entries in and writes them back: a state made from defaults while the store was down never
replaces a real one. It shares the interpreter with answers, so it works in small pieces and rests after each. What was
pushed into a store that has been refilled since is pushed again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from millrace.inputs import RecentEvents
from millrace.observe.progress import log
from serving.transformer.journal import SYNC_INTERVAL_S, Entry, Journal
from serving.transformer.pushed import Pushed
from serving.transformer.state import Overlay

INTERVAL_S: Final = 2.0
BATCH_KEYS: Final = 32
"""Of a transaction of the store: about 5 ms of work, and one wait for the disk."""
REST: Final = 2.0
"""A push rests so many times as long as it worked, and answers go on."""
RETRY_S: Final = 10.0


class StateStore(Protocol):
    """What a push needs of the online store."""

    def read_pushed(self, keys: Sequence[str]) -> list[RecentEvents]: ...
    def push(self, states: Mapping[str, RecentEvents]) -> None: ...
    def fill(self) -> str | None: ...


class Pusher:
    """Keeps journal, overlay and store in step: `sync_forever` and `push_forever` run until they are cancelled."""

    def __init__(
        self,
        store: StateStore,
        overlay: Overlay,
        journal: Journal,
        pushed: Pushed | None = None,
        on_pushed_again: Callable[[], None] | None = None,
    ) -> None:
        """`on_pushed_again` is called when what had been pushed before a refill is in the store that came of it."""
        self._store, self._overlay, self._journal, self._pushed = store, overlay, journal, pushed
        self._on_pushed_again = on_pushed_again
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push")
        self._disk = asyncio.Lock()

    async def sync_forever(self) -> None:
        while True:
            await asyncio.sleep(SYNC_INTERVAL_S)
            if self._journal.dirty:
                try:
                    async with self._disk:
                        await asyncio.to_thread(self._journal.sync)
                except OSError as error:
                    log("journal_sync_failed", error=repr(error), retry_s=RETRY_S)
                    await asyncio.sleep(RETRY_S)

    async def push_forever(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.push()
            except Exception as error:  # noqa: BLE001 - the store may be down; the journal keeps what is not pushed
                log("push_failed", error=repr(error), waiting_entities=len(self._overlay), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)

    async def push(self) -> int:
        """Push what is pending now and drop the journal segments that held it; returns the number of entities."""
        run = asyncio.get_running_loop().run_in_executor
        fill = await run(self._thread, self._store.fill) if self._pushed else None
        if fill:
            await run(self._thread, self._push_again, fill)
        if not len(self._overlay):
            return 0
        async with self._disk:
            closed, old = self._journal.switch(await run(self._thread, self._journal.open_segment))
            await run(self._thread, self._journal.close_segment, old)
        pending = self._overlay.oldest(len(self._overlay))
        names = list(pending)
        for start in range(0, len(names), BATCH_KEYS):
            part = {name: pending[name] for name in names[start : start + BATCH_KEYS]}
            await run(self._thread, self._write, part)
            self._overlay.pushed(part)
        if not self._overlay.evicted:
            if self._pushed and fill:
                await run(self._thread, self._pushed.keep, closed, fill)
            self._journal.drop(closed)
        return len(pending)

    def _push_again(self, fill: str) -> None:
        """What was pushed into the stores before this one; a kill in between leaves the files, and it is done again."""
        assert self._pushed is not None
        for path in self._pushed.of_other_fills(fill):
            count = 0
            for group in self._pushed.groups(path, fill):
                by_key: dict[str, list[Entry]] = {}
                for entry in group:
                    by_key.setdefault(entry.key, []).append(entry)
                names = list(by_key)
                for start in range(0, len(names), BATCH_KEYS):
                    self._write({name: by_key[name] for name in names[start : start + BATCH_KEYS]})
                self._pushed.moved(group, fill)
                count += len(group)
            path.unlink()
            if self._on_pushed_again is not None:
                self._on_pushed_again()
            log("pushed_again_after_refill", fill=fill, entries=count)

    def _write(self, pending: Mapping[str, Sequence[Entry]]) -> None:
        began = time.thread_time()
        stored = self._store.read_pushed(list(pending))
        states = zip(pending.items(), stored, strict=True)
        self._store.push({name: self._overlay.fold(state, entries) for (name, entries), state in states})
        time.sleep(REST * (time.thread_time() - began))
