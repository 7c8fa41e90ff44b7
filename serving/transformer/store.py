"""The online store as the transformer uses it: lookups that share a round trip, and pushes of customer states.

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

import yaml

from fraud.features import CUSTOMER_STATE_FIELDS, FEATURE_SERVICE, TERMINAL_STATE_FIELDS
from fraud.online import CustomerState, Response, customer_states, push_columns
from millrace.errors import Unavailable
from serving.transformer.fill import NEVER_FILLED, Fill
from serving.transformer.rows import Rows
from serving.transformer.terminals import DividedStore

CUSTOMERS, TERMINALS = "customer_state", "terminal_state"
"""Feature views."""
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

    def read(self, customers: Sequence[str], terminals: Sequence[str]) -> Response: ...


class OnlineStore(Store, DividedStore, Protocol):
    """What the transformer needs: lookups, and what pushes need."""

    def fill(self) -> str | None: ...
    def read_customers(self, customers: Sequence[str]) -> list[CustomerState]: ...
    def push(self, states: Mapping[str, CustomerState]) -> None: ...


class FeastStore:
    """The Feast store of a rendered feature repository; one thread may look up while another pushes.

    Lookups and pushes have a connection each. Feast writes a state column by column in one transaction, and a read
    on the connection that writes would see the part that is written already.
    """

    def __init__(self, repo: Path) -> None:
        from feast import FeatureStore

        self._lookups, self._pushes = (FeatureStore(repo_path=str(repo), config=_online_only(repo)) for _ in range(2))
        _write_always(self._pushes.config.online_store)
        self._service = self._lookups.get_feature_service(FEATURE_SERVICE)
        self._customers = Rows(self._lookups, CUSTOMERS, CUSTOMER_STATE_FIELDS)
        self._terminals = Rows(self._lookups, TERMINALS, TERMINAL_STATE_FIELDS)
        self._pushed = Rows(self._pushes, CUSTOMERS, CUSTOMER_STATE_FIELDS)
        self._fill = Fill(repo)
        # The first read opens files and loads code: before readiness, not in a request.
        self.read([""], [""])
        self.read_customers([""])

    def read(self, customers: Sequence[str], terminals: Sequence[str]) -> Response:
        """One row per pair; unknown entities are None. Raises Unavailable for a store that was never filled."""
        if self._fill.current() == NEVER_FILLED:
            raise Unavailable("the online store was never filled. Run materialize (make run).")
        if self.embedded:
            return self._customers.read(customers) | self._terminals.read(terminals)
        entities = {"customer_id": list(customers), "terminal_id": list(terminals)}  # one round trip for both views
        answer: dict[str, list[Any]] = self._lookups.get_online_features(self._service, entities).to_dict()
        return answer

    @property
    def embedded(self) -> bool:
        """Whether it is a file of this machine."""
        return self._fill.current() is not None

    def fill(self) -> str | None:
        """What the store was filled from; None when it cannot tell."""
        return self._fill.current()

    def contents(self) -> str | None:
        """Like `fill`, plus the refresh that views were renewed to since."""
        return self._fill.contents()

    def read_customer_columns(self, customers: Sequence[str]) -> Response:
        return self._customers.read(customers)

    def read_terminal_columns(self, terminals: Sequence[str]) -> Response:
        return self._terminals.read(terminals)

    def read_customers(self, customers: Sequence[str]) -> list[CustomerState]:
        """What a push adds to; called by the thread that pushes."""
        return customer_states(self._pushed.read(customers))

    def push(self, states: Mapping[str, CustomerState]) -> None:
        columns = push_columns(states)
        self._pushed.write(columns["customer_id"], columns["event_timestamp"], columns)


def _online_only(repo: Path) -> Any:
    """The repository's settings with an offline store that loads no engine: a server never asks it (0.5 s of CPU)."""
    from feast.repo_config import RepoConfig

    settings = yaml.safe_load(os.path.expandvars((repo / "feature_store.yaml").read_text()))
    config = RepoConfig(**settings | {"offline_store": {"type": "remote", "host": "none"}})
    config.repo_path = repo
    return config


def _write_always(online_store: Any) -> None:
    """Redis refuses a state whose newest transaction is no newer than the stored one's; one that came late is in it."""
    if hasattr(online_store, "skip_dedup"):
        online_store.skip_dedup = True


@dataclass(slots=True, eq=False)
class _Waiting:
    customers: Sequence[str]
    terminals: Sequence[str]
    answer: asyncio.Future[Response]


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

    async def read(self, customers: Sequence[str], terminals: Sequence[str], timeout_s: float) -> Response:
        """The store's answer for these rows; raises what the store raised, or TimeoutError."""
        busy = self._task is not None and not self._task.done()
        if not busy and len(customers) <= INLINE_ROWS and self._clock() >= self._inline_from:
            return self._read_inline(customers, terminals)
        waiting = _Waiting(customers, terminals, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if not busy:
            self._task = asyncio.create_task(self._work())
        try:
            return await asyncio.wait_for(waiting.answer, timeout_s)
        finally:
            if waiting in self._waiting:  # given up before its turn: a store that hangs must not collect them
                self._waiting.remove(waiting)

    def _read_inline(self, customers: Sequence[str], terminals: Sequence[str]) -> Response:
        began = self._clock()
        try:
            return self._store.read(customers, terminals)
        finally:
            self._slow = self._slow + 1 if (now := self._clock()) - began > SLOW_S else 0
            if self._slow >= SLOW_LOOKUPS:
                self._inline_from = now + SLOW_PAUSE_S

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            customers = [name for item in batch for name in item.customers]
            terminals = [name for item in batch for name in item.terminals]
            try:
                answer = await loop.run_in_executor(self._thread, self._store.read, customers, terminals)
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                _fail(batch, error)
            else:
                _share(batch, answer)

    def _take(self) -> list[_Waiting]:
        """The next lookups that somebody still waits for, up to MAX_LOOKUP_ROWS."""
        self._waiting = [item for item in self._waiting if not item.answer.done()]
        rows = 0
        batch: list[_Waiting] = []
        while self._waiting and (not batch or rows + len(self._waiting[0].customers) <= MAX_LOOKUP_ROWS):
            batch.append(self._waiting.pop(0))
            rows += len(batch[-1].customers)
        return batch


def _share(batch: Sequence[_Waiting], answer: Response) -> None:
    start = 0
    for item in batch:
        end = start + len(item.customers)
        part = answer if len(batch) == 1 else {name: values[start:end] for name, values in answer.items()}
        if not item.answer.done():
            item.answer.set_result(part)
        start = end


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for item in batch:
        if not item.answer.done():
            item.answer.set_exception(error)
