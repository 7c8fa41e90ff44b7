"""Newest states of a recent view in memory: whoever was answered a moment ago is not looked up again.

The transformer is the only one who adds to a state, so what it knows after an answer is what a lookup and a fold would
give, until the store is filled again: then all is forgotten, and once more when what had been pushed is in the new
store. Fits beneath `RefreshedCache`, which asks what the store was filled from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.fields import View
from millrace.inputs import RecentEvents, States
from serving.transformer.fill import fill_of
from serving.transformer.refreshed import DividedStore, Keys

MAX_STATES: Final = 10_000
"""About 35 MB; those that were answered longest ago leave first."""
FILL_AGE_S: Final = 0.05
"""How old the answer to "what was the store filled from" may be where nothing was read from the store since."""


class RecentCache:
    """A `DividedStore` as `store` is, with memory. Reads are one thread's at a time; `keep` may be another's."""

    def __init__(self, store: DividedStore, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._ttl_s, self._clock = store, ttl_s, clock
        self._states: dict[str, tuple[int, float, RecentEvents]] = {}
        self._fill: str | None = None
        self._fill_until = 0.0
        self.generation = 0
        """Of what is known; another one after each `forget`."""

    def __len__(self) -> int:
        return len(self._states)

    def keep(self, states: Mapping[str, RecentEvents], generation: int) -> None:
        """Remember states as they are after an answer, whose lookup began at `generation`."""
        if generation != self.generation:  # the store is another one by now
            return
        now = self._clock()
        for key, state in states.items():
            _, until, _ = self._states.pop(key, (generation, 0.0, state))
            # As old as its lookup: what somebody else wrote to the store is seen in the end.
            self._states[key] = (generation, until if until > now else now + self._ttl_s, state)
        while len(self._states) > MAX_STATES:
            del self._states[next(iter(self._states))]

    def forget(self) -> None:
        """The store has something that was not known here."""
        self.generation += 1
        self._states = {}

    # DividedStore

    def read(self, keys: Keys) -> States:
        return self._store.read(keys)

    def contents(self) -> str | None:
        now = self._clock()
        if now < self._fill_until:
            return self._fill
        fill = self._store.contents()
        if fill_of(fill) != fill_of(self._fill):  # refreshed views alone may be renewed
            self.forget()
        self._fill, self._fill_until = fill, now + FILL_AGE_S
        return fill

    def read_recent(self, keys: Sequence[str]) -> list[RecentEvents]:
        known = {key: state for key in keys if (state := self._get(key)) is not None}
        missing = list(dict.fromkeys(key for key in keys if key not in known))
        if missing:
            self._fill_until = 0.0
            known |= dict(zip(missing, self._store.read_recent(missing), strict=True))
        return [known[key] for key in keys]

    def read_refreshed(self, view: View, keys: Sequence[str]) -> NDArray[np.int64]:
        self._fill_until = 0.0
        return self._store.read_refreshed(view, keys)

    def _get(self, key: str) -> RecentEvents | None:
        generation, until, state = self._states.get(key, (-1, 0.0, None))
        return state if generation == self.generation and self._clock() < until else None
