"""Appends that share a transaction: one alone goes at once, those that arrive meanwhile go together. No timers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from millrace.appended.records import Entry
from serving.transformer.greedy import take

MAX_ENTRIES: Final = 256
"""Of a transaction; one request may bring more."""


@dataclass(slots=True, eq=False)
class _Waiting:
    entries: Sequence[Entry]
    done: asyncio.Future[None]


class Appends:
    """`append` writes entries to the store; one thread calls it."""

    def __init__(self, append: Callable[[Sequence[Entry]], None]) -> None:
        self._append = append
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="append")
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, entries: Sequence[Entry]) -> None:
        """The store has them when this returns; raises what the store raised. Cancelled before its turn: nothing."""
        if not entries:
            return

        waiting = _Waiting(entries, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        try:
            await waiting.done
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := take(self._waiting, lambda item: len(item.entries), MAX_ENTRIES):
            entries = [entry for item in batch for entry in item.entries]
            error: Exception | None = None
            try:
                await loop.run_in_executor(self._thread, self._append, entries)
            except Exception as raised:  # noqa: BLE001 - handed to whoever asked
                error = raised
            for item in batch:
                _finish(item, error)


def _finish(item: _Waiting, error: Exception | None) -> None:
    if item.done.done():
        return
    if error is None:
        item.done.set_result(None)
    else:
        item.done.set_exception(error)
