"""The online store as the transformer uses it: lookups that share a round trip, and pushes of recent states.

Feast is synchronous, so one thread serves lookups: what arrives while it is busy is fetched together next. A store on
this machine's disk answers a few rows in less than it takes to reach that thread and come back, so it is asked in the
event loop as long as it does. Pushes have a thread of their own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from millrace.errors import Unavailable
from millrace.fields import View
from millrace.inputs import RecentEvents, States
from millrace.installed import Workload
from millrace.lookup import columns_of, recent_of, refreshed_of, states_of
from serving.transformer.fill import NEVER_FILLED, Fill
from serving.transformer.refreshed import DividedStore, Keys
from serving.transformer.rows import Rows

MAX_LOOKUP_ROWS: Final = 256
"""Rows fetched in one round trip."""
INLINE_ROWS: Final = 8
"""Rows of a lookup in the event loop: about half a millisecond."""
SLOW_S, SLOW_PAUSE_S = 0.05, 1.0
"""A lookup that held the loop for longer, and for how long all go to the thread after SLOW_LOOKUPS in a row: one alone
may have waited for a core, which a thread would wait for as well."""
SLOW_LOOKUPS: Final = 2


class Store(Protocol):
    """What a lookup needs; `FeastStore` is the real one."""

    def read(self, keys: Keys) -> States: ...


class OnlineStore(DividedStore, Protocol):
    """What the transformer needs: lookups, and what pushes need."""

    def fill(self) -> str | None: ...
    def read_pushed(self, keys: Sequence[str]) -> list[RecentEvents]: ...
    def push(self, states: Mapping[str, RecentEvents]) -> None: ...


class FeastStore:
    """The Feast store of a workload's rendered repository; one thread may look up while another pushes.

    Lookups and pushes have a connection each. Feast writes a state column by column in one transaction, and a read
    on the connection that writes would see the part that is written already.
    """

    def __init__(self, repo: Path, workload: Workload) -> None:
        from feast import FeatureStore

        self._lookups, self._pushes = (FeatureStore(repo_path=str(repo), config=_online_only(repo)) for _ in range(2))
        _write_always(self._pushes.config.online_store)
        self._service = self._lookups.get_feature_service(workload.features.FEATURE_SERVICE)
        self._views, self._recent = workload.features.VIEWS, workload.recent
        self._keys = {view.entity: workload.entity(view.entity).key for view in self._views}
        self._rows = {view.name: Rows(self._lookups, view.name, list(view.fields)) for view in self._views}
        self._fill = Fill(repo)
        # The first read opens files and loads code: before readiness, not in a request.
        self.read({entity: [""] for entity in self._keys})
        if self._recent is not None:
            self._pushed = Rows(self._pushes, self._recent.name, list(self._recent.fields))
            self.read_pushed([""])

    def read(self, keys: Keys) -> States:
        """One row per event; unknown entities have states of nothing. Raises Unavailable for a store never filled."""
        if self._fill.current() == NEVER_FILLED:
            raise Unavailable("the online store was never filled. Run materialize (make run).")
        if not self.embedded:
            entities = {key: list(keys[entity]) for entity, key in self._keys.items()}  # one round trip for all views
            return states_of(self._lookups.get_online_features(self._service, entities).to_dict(), self._views)
        recent = {} if self._recent is None else {self._recent.name: self.read_recent(keys[self._recent.entity])}
        refreshed = [view for view in self._views if not view.recent]
        return States(recent, {view.name: self.read_refreshed(view, keys[view.entity]) for view in refreshed})

    @property
    def embedded(self) -> bool:
        """Whether it is a file of this machine."""
        return self._fill.current() is not None

    def fill(self) -> str | None:
        """What the store was filled from; None when it cannot tell."""
        return self._fill.current()

    def contents(self) -> str | None:
        """Like `fill`, and to which refresh the refreshed views were renewed since."""
        return self._fill.contents()

    def read_recent(self, keys: Sequence[str]) -> list[RecentEvents]:
        view = self._the_recent_view()
        return recent_of(self._rows[view.name].read(keys), view)

    def read_refreshed(self, view: View, keys: Sequence[str]) -> NDArray[np.int64]:
        return refreshed_of(self._rows[view.name].read(keys), view)

    def read_pushed(self, keys: Sequence[str]) -> list[RecentEvents]:
        """What a push adds to; called by the thread that pushes."""
        return recent_of(self._pushed.read(keys), self._the_recent_view())

    def push(self, states: Mapping[str, RecentEvents]) -> None:
        view = self._the_recent_view()
        key = self._keys[view.entity]
        columns = columns_of(states, view, key)
        self._pushed.write(columns[key], columns["event_timestamp"], columns)

    def _the_recent_view(self) -> View:
        if self._recent is None:
            raise LookupError("this workload has no recent view: nothing of it is pushed")
        return self._recent


def _online_only(repo: Path) -> Any:
    """The repository's settings with an offline store that loads no engine: a server never asks it (0.5 s of CPU)."""
    from feast.repo_config import RepoConfig

    settings = yaml.safe_load(os.path.expandvars((repo / "feature_store.yaml").read_text()))
    config = RepoConfig(**settings | {"offline_store": {"type": "remote", "host": "none"}})
    config.repo_path = repo
    return config


def _write_always(online_store: Any) -> None:
    """Redis refuses a state whose newest event is no newer than the stored one's; one that came late is in it."""
    if hasattr(online_store, "skip_dedup"):
        online_store.skip_dedup = True


@dataclass(slots=True, eq=False)
class _Waiting:
    keys: Keys
    rows: int
    answer: asyncio.Future[States]


class Lookups:
    """Greedy batching: a lookup alone goes at once; those that arrive meanwhile go together.

    `embedded` says that the store is a file here, as the journal is, which the loop writes too.
    """

    def __init__(self, store: Store, *, embedded: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._inline_from = 0.0 if embedded else float("inf")
        self._slow = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookup")
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Lookups that wait for their turn."""
        return len(self._waiting)

    async def read(self, keys: Keys, rows: int, timeout_s: float) -> States:
        """The store's answer for these rows; raises what the store raised, or TimeoutError."""
        busy = self._task is not None and not self._task.done()
        if not busy and rows <= INLINE_ROWS and self._clock() >= self._inline_from:
            return self._read_inline(keys)
        waiting = _Waiting(keys, rows, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if not busy:
            self._task = asyncio.create_task(self._work())
        try:
            return await asyncio.wait_for(waiting.answer, timeout_s)
        finally:
            if waiting in self._waiting:  # given up before its turn: a store that hangs must not collect them
                self._waiting.remove(waiting)

    def _read_inline(self, keys: Keys) -> States:
        began = self._clock()
        try:
            return self._store.read(keys)
        finally:
            self._slow = self._slow + 1 if (now := self._clock()) - began > SLOW_S else 0
            if self._slow >= SLOW_LOOKUPS:
                self._inline_from = now + SLOW_PAUSE_S

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            try:
                answer = await loop.run_in_executor(self._thread, self._store.read, _together(batch))
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                _fail(batch, error)
            else:
                _share(batch, answer)

    def _take(self) -> list[_Waiting]:
        """The next lookups that somebody still waits for, up to MAX_LOOKUP_ROWS."""
        self._waiting = [item for item in self._waiting if not item.answer.done()]
        rows = 0
        batch: list[_Waiting] = []
        while self._waiting and (not batch or rows + self._waiting[0].rows <= MAX_LOOKUP_ROWS):
            batch.append(self._waiting.pop(0))
            rows += batch[-1].rows
        return batch


def _together(batch: Sequence[_Waiting]) -> Keys:
    if len(batch) == 1:
        return batch[0].keys
    return {entity: [key for item in batch for key in item.keys[entity]] for entity in batch[0].keys}


def _share(batch: Sequence[_Waiting], answer: States) -> None:
    start = 0
    for item in batch:
        end = start + item.rows
        if not item.answer.done():
            item.answer.set_result(answer if len(batch) == 1 else answer.part(start, end))
        start = end


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for item in batch:
        if not item.answer.done():
            item.answer.set_exception(error)
