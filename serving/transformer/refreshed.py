"""States of refreshed views in memory: they change at refreshes, and reading them is most of a lookup's cost.

An entry lives for `ttl_s`, never past the next refresh, and never past a refill: the store says what it was filled
from, and that is asked after each lookup. If the answer is still the one that the entries were read at, the lookup was
of one fill, even while `materialize` swaps the store. One thread reads at a time, so a state that many wait for is
asked for once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.fields import View
from millrace.inputs import RecentEvents, States
from millrace.installed import Workload
from serving.transformer.fill import NEVER_FILLED

Keys = Mapping[str, Sequence[str]]
"""Entity → [B] ids, as the states have them."""
Row = NDArray[np.int64] | None
"""[fields] of a refreshed view; None where the store has none."""
MAX_STATES: Final = 50_000
"""Of a view, about 40 MB; the ones that came first leave first."""
DAY_S: Final = 86_400
_TRIES: Final = 3


class DividedStore(Protocol):
    """A store that gives its views apart, and says what it was filled from."""

    def read(self, keys: Keys) -> States: ...
    def contents(self) -> str | None: ...
    def read_recent(self, keys: Sequence[str]) -> list[RecentEvents]: ...
    def read_refreshed(self, view: View, keys: Sequence[str]) -> list[Row]: ...


def states_from(recent: Mapping[str, list[RecentEvents]], refreshed: Mapping[View, Sequence[Row]]) -> States:
    """Recent views by name and rows of refreshed ones → states; an entity without a row is unseen, a row of zeros."""
    arrays, unseen = {}, {}
    for view, rows in refreshed.items():
        nothing = np.zeros(len(view.fields), np.int64)
        arrays[view.name] = np.array([nothing if row is None else row for row in rows])
        unseen[view.name] = np.array([row is None for row in rows])
    return States(recent, arrays, unseen)


class RefreshedCache:
    """`read` as of the store behind it; for one thread at a time."""

    def __init__(
        self, store: DividedStore, workload: Workload, ttl_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._ttl_s, self._clock = store, ttl_s, clock
        self._every_s = DAY_S / workload.features.REFRESHES_PER_DAY
        self._recent = workload.recent
        self._views = [_Held(view) for view in workload.features.VIEWS if not view.recent]
        self._fill: str | None = None

    def __len__(self) -> int:
        return sum(len(held.states) for held in self._views)

    def read(self, keys: Keys) -> States:
        """One row per event; unknown entities have states of nothing."""
        recent: dict[str, list[RecentEvents]] = {}
        refreshed: dict[View, list[Row]] = {}
        for _ in range(_TRIES):
            if not self._fill:
                self._fill = self._store.contents()
            if self._fill == NEVER_FILLED:
                return self._store.read(keys)  # which says so
            if self._recent is not None:
                recent[self._recent.name] = self._store.read_recent(keys[self._recent.entity])
            for held in self._views:
                refreshed[held.view] = self._read(held, keys[held.view.entity])
            fill = self._store.contents()
            if fill == self._fill:
                break
            for held in self._views:  # swapped: views of one fill may have met views of another
                held.states.clear()
            self._fill = fill
        return states_from(recent, refreshed)

    def _read(self, held: _Held, keys: Sequence[str]) -> list[Row]:
        now = self._clock()
        missing = [key for key in dict.fromkeys(keys) if not held.knows(key, now)]
        fresh: dict[str, Row] = {}
        if missing:
            fresh = dict(zip(missing, self._store.read_refreshed(held.view, missing), strict=True))
            next_refresh = (now // self._every_s + 1) * self._every_s
            held.put(fresh, min(now + self._ttl_s, next_refresh))
        return [fresh[key] if key in fresh else held.states[key][1] for key in keys]


class _Held:
    """The states of one view that are known, by id: until when, and [fields]."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.states: dict[str, tuple[float, Row]] = {}

    def knows(self, key: str, now: float) -> bool:
        return key in self.states and now < self.states[key][0]

    def put(self, fresh: Mapping[str, Row], expires: float) -> None:
        for key, state in fresh.items():
            self.states.pop(key, None)
            self.states[key] = (expires, state)
        while len(self.states) > MAX_STATES:
            del self.states[next(iter(self.states))]
