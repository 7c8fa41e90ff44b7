"""In the background: what was appended becomes part of Feast's rows, in batches, and reaches the disk.

Feast's own lookups answer from its rows; the transformer's need no push. Events gather for a moment first, so that an
entity is pushed once for several. It shares the interpreter with answers, so it works in small pieces and rests after
each. All replicas may run it: the store sees to it that one pushes an entity at a time, and nothing older comes after.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from millrace.observe.progress import log
from millrace.observe.telemetry import UNPUSHED

INTERVAL_S: Final = 2.0
SYNC_INTERVAL_S: Final = 0.2
"""What a power cut may take of an embedded store."""
REST: Final = 2.0
"""A push rests so many times as long as it worked, and answers go on."""
RETRY_S: Final = 10.0


class Pushed(Protocol):
    """What a push needs of the online store."""

    def push(self) -> int: ...
    def unpushed(self) -> int: ...
    def sync(self) -> None: ...


class Pusher:
    """`sync_forever` and `push_forever` run until they are cancelled."""

    def __init__(self, store: Pushed) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="sync")

    async def sync_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SYNC_INTERVAL_S)
            try:
                await loop.run_in_executor(self._disk, self._store.sync)
            except Exception as error:  # noqa: BLE001 - the disk may be full for a while
                log("sync_failed", error=repr(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)

    async def push_forever(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.push()
            except Exception as error:  # noqa: BLE001 - the store may be down; it keeps what is not pushed
                log("push_failed", error=repr(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)

    async def push(self) -> int:
        """Push what there is to push; returns how many entities got something."""
        loop = asyncio.get_running_loop()
        UNPUSHED.set(await loop.run_in_executor(self._thread, self._store.unpushed))
        count = 0
        while done := await loop.run_in_executor(self._thread, self._some):
            count += done
        return count

    def _some(self) -> int:
        began = time.thread_time()
        done = self._store.push()
        time.sleep(REST * (time.thread_time() - began))
        return done
