"""What a recent view must not forget: an event is in the online store before its answer goes out.

A workload without a recent view has none of it. With several recent views it would have one of these for each, and
`online.remembered` would say what each one keeps; `Workload.recent` refuses that until there is such a workload.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from millrace.appended.records import Entry
from serving.transformer.appends import Appends
from serving.transformer.pusher import Pusher
from serving.transformer.store import OnlineStore


class Memory:
    """The recent events of `entity`, beside one generation of the online store."""

    def __init__(self, entity: str, store: OnlineStore) -> None:
        self.entity = entity
        self.place = store.place
        """Where its events lie; other generations whose view remembers the same share it."""
        self._appends = Appends(store.append)
        self._pusher = Pusher(store)

    async def remember(self, entries: Sequence[Entry]) -> None:
        """Before the answer goes out; raises Unavailable when the store refuses."""
        await self._appends.add(entries)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs until it is cancelled."""
        return [self._pusher.sync_forever(), self._pusher.push_forever()]
