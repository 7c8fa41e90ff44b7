"""Appends of concurrent requests, gathered: what arrives while one append is under way is the next one.

Greedy and without a timer: an append that finds nobody at work begins at once. The store is asked in a thread, so that
a slow disk holds up those who wait for it and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from millrace.errors import Unavailable
from millrace.events.stream import Stream

MAX_WAITING_BYTES: Final = 32 << 20
"""Of events that wait for the append under way; past it more are refused."""


@dataclass(slots=True)
class _Batch:
    """Events of one append, and who waits for it."""

    done: asyncio.Future[None]
    events: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


class Appender:
    """Appends to the topics of a stream from one event loop."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="append")
        self._waiting: dict[str, _Batch] = {}
        self._waiting_bytes = 0
        self._working = False

    async def append(self, topic: str, events: Sequence[bytes], ids: Sequence[str]) -> None:
        """Return when the events are durable; raises Unavailable when they are not, and nothing may be acknowledged."""
        if events:
            # Shielded: one client that goes away must not cancel what the others of its batch wait for.
            await asyncio.shield(self.begin(topic, events, ids))

    def begin(self, topic: str, events: Sequence[bytes], ids: Sequence[str]) -> asyncio.Future[None]:
        """A future that is done when the events are durable. Others wait for it too: shield it, never cancel it."""
        size = sum(map(len, events))
        if self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise Unavailable(
                "the event stream is slower than the events. Try again later; if it goes on, look at its disk."
            )
        batch = self._waiting.get(topic)
        if batch is None:
            batch = self._waiting[topic] = _Batch(asyncio.get_running_loop().create_future())
        batch.events += events
        batch.ids += ids
        self._waiting_bytes += size
        if not self._working:
            self._working = True
            asyncio.get_running_loop().call_soon(self._begin)
        return batch.done

    async def drained(self) -> None:
        """Return when nothing waits any more."""
        while self._working:
            waiting = [batch.done for batch in self._waiting.values()]
            await (asyncio.wait(waiting) if waiting else asyncio.sleep(0.001))

    def close(self) -> None:
        """After the last append."""
        self._thread.shutdown()

    def _begin(self) -> None:
        topic = next(iter(self._waiting))
        batch = self._waiting.pop(topic)
        work = asyncio.get_running_loop().run_in_executor(
            self._thread, self._stream.append, topic, batch.events, batch.ids
        )
        work.add_done_callback(lambda finished: self._ended(finished, batch))

    def _ended(self, work: asyncio.Future[None], batch: _Batch) -> None:
        self._waiting_bytes -= sum(map(len, batch.events))
        error = work.exception()
        if error is None:
            batch.done.set_result(None)
        else:
            batch.done.set_exception(error)
            batch.done.exception()  # seen: whoever waited may have gone away
        if self._waiting:
            self._begin()
        else:
            self._working = False
