"""The online store as the transformer uses it: what it is asked for, which one it is, lookups that share a round trip.

A store is synchronous, so one thread serves lookups: what arrives while it is busy is fetched together next. A store on
this machine's disk answers a few rows in less than it takes to reach that thread and come back, so it is asked in the
event loop as long as it does. Appends and pushes have threads of their own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from millrace.appended.records import Entry, Records
from millrace.errors import ConfigError, NotFound
from millrace.inputs import States
from millrace.installed import Workload
from millrace.lake.feast_home import CONFIGURATION, filled_with, generations, project_of, repository, workload_folder
from millrace.lake.manifest import MANIFEST, Manifest
from serving.transformer.greedy import take
from serving.transformer.refreshed import DividedStore, Keys

MAX_LOOKUP_ROWS: Final = 256
"""Rows fetched in one round trip."""
INLINE_ROWS: Final = 8
"""Rows of a lookup in the event loop: about half a millisecond."""
SLOW_S, SLOW_PAUSE_S = 0.05, 1.0
"""A lookup that held the loop for longer, and for how long all go to the thread after SLOW_LOOKUPS in a row: one alone
may have waited for a core, which a thread would wait for as well."""
SLOW_LOOKUPS: Final = 2


class Store(Protocol):
    """What a lookup needs."""

    def read(self, keys: Keys) -> States: ...


class OnlineStore(DividedStore, Protocol):
    """What the transformer needs: lookups, and where a view is recent appends and pushes."""

    embedded: bool
    """Whether it is a file of this machine."""
    place: str
    """Where appended events lie, beside all generations whose recent view remembers the same; empty without one."""

    def append(self, entries: Sequence[Entry]) -> None: ...
    def push(self) -> int: ...
    def unpushed(self) -> int: ...
    def sync(self) -> None: ...


def open_store(home: Path, workload: Workload, generation: str, history_length: int) -> OnlineStore:
    """A generation of a workload's state: in the home, or in the store that the workload's feature_store.yaml names.

    Raises NotFound for one that is nowhere, ConfigError for a store that events cannot be appended to, or for one of
    another history length.
    """
    from feast import FeatureStore

    from serving.transformer.embedded import EmbeddedStore
    from serving.transformer.networked import NetworkedStore

    views = workload.features.VIEWS
    records = None if workload.recent is None else Records(workload.recent, history_length)
    repo = repository(home, workload.name, generation)
    if (repo / CONFIGURATION).is_file():
        require_history_length(home, workload, repo, history_length)
        config = _online_only(repo)
        _require_kind(config, "sqlite", repo)
        return EmbeddedStore(repo, FeatureStore(config=config), FeatureStore(config=_online_only(repo)), views, records)

    shared = workload_folder(home, workload.name)
    if not (shared / CONFIGURATION).is_file() or _online_only(shared).online_store.type == "sqlite":
        there = ", ".join(generations(home, workload.name)) or "none"
        raise NotFound(
            f"generation {generation} of the state of {workload.name} is not in {shared}; there are: {there}. "
            "Fill it again: make refresh, or promote the model again: make run."
        )
    config = _online_only(shared, generation)
    _require_kind(config, "redis", shared)
    return NetworkedStore(FeatureStore(config=config), workload.name, generation, views, records)


def _require_kind(config: Any, wanted: str, folder: Path) -> None:
    kind = str(config.online_store.type)
    if kind != wanted:
        raise ConfigError(f"online_store in {folder / CONFIGURATION} is of type {kind!r}; wanted sqlite or redis")


def require_history_length(home: Path, workload: Workload, repo: Path, history_length: int) -> None:
    """Raise ConfigError when the recent view of a generation was filled with states of another length.

    Where the store came without the lake that says so, the predictor's answers tell.
    """
    folder = home / "lake" / "online" / (filled_with(repo) or "")
    if workload.recent is None or not (folder / MANIFEST).is_file():
        return
    stored = int(Manifest.read(folder, "online_store").facts["history_length"])
    if stored != history_length:
        raise ConfigError(
            f"MILLRACE_HISTORY_LENGTH is {history_length}; generation {repo.name} in {home} was filled with {stored}. "
            "Set it to that, or train a model with another one."
        )


def _online_only(repo: Path, generation: str = "") -> Any:
    """A folder's settings with an offline store that loads no engine: a server never asks it (0.5 s of CPU).

    `generation`: which project of the server that they name.
    """
    from feast.repo_config import RepoConfig

    settings = yaml.safe_load(os.path.expandvars((repo / CONFIGURATION).read_text(encoding="utf-8")))
    if generation:
        settings = project_of(settings, generation)
    config = RepoConfig(**settings | {"offline_store": {"type": "remote", "host": "none"}})
    config.repo_path = repo
    return config


@dataclass(slots=True, eq=False)
class _Waiting:
    keys: Keys
    rows: int
    answer: asyncio.Future[States]


class Lookups:
    """Greedy batching: a lookup alone goes at once; those that arrive meanwhile go together.

    `embedded` says that the store is a file of this machine, which the loop may read itself.
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
        return take(self._waiting, lambda item: item.rows, MAX_LOOKUP_ROWS)


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
