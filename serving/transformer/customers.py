"""Customers' newest states in memory: whoever was answered a moment ago is not looked up again.

The transformer is the only one who adds to a state, so what it knows after an answer is what a lookup and a fold would
give, until the store is filled again: then all is forgotten, and once more when what had been pushed is in the new
store. Fits beneath `CachedTerminals`, which asks what the store was filled from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fraud.features import CUSTOMER_STATE_FIELDS
from fraud.online import CustomerState, Response
from serving.transformer.fill import fill_of
from serving.transformer.terminals import DividedStore

MAX_CUSTOMERS: Final = 10_000
"""About 35 MB; those that were answered longest ago leave first."""
FILL_AGE_S: Final = 0.05
"""How old the answer to "what was the store filled from" may be where nothing was read from the store since."""


class KnownCustomers:
    """A `DividedStore` as `store` is, with memory. Reads are one thread's at a time; `keep` may be another's."""

    def __init__(self, store: DividedStore, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._ttl_s, self._clock = store, ttl_s, clock
        self._states: dict[str, tuple[int, float, CustomerState]] = {}
        self._fill: str | None = None
        self._fill_until = 0.0
        self.generation = 0
        """Of what is known; another one after each `forget`."""

    def __len__(self) -> int:
        return len(self._states)

    def keep(self, states: Mapping[str, CustomerState], generation: int) -> None:
        """Remember customers as they are after an answer, whose lookup began at `generation`."""
        if generation != self.generation:  # the store is another one by now
            return
        now = self._clock()
        for name, state in states.items():
            _, until, _ = self._states.pop(name, (generation, 0.0, state))
            # As old as its lookup: what somebody else wrote to the store is seen in the end.
            self._states[name] = (generation, until if until > now else now + self._ttl_s, state)
        while len(self._states) > MAX_CUSTOMERS:
            del self._states[next(iter(self._states))]

    def forget(self) -> None:
        """The store has something that was not known here."""
        self.generation += 1
        self._states = {}

    # DividedStore

    def read(self, customers: Sequence[str], terminals: Sequence[str]) -> Response:
        return self._store.read(customers, terminals)

    def contents(self) -> str | None:
        now = self._clock()
        if now < self._fill_until:
            return self._fill
        fill = self._store.contents()
        if fill_of(fill) != fill_of(self._fill):  # terminals alone may be renewed
            self.forget()
        self._fill, self._fill_until = fill, now + FILL_AGE_S
        return fill

    def read_customer_columns(self, customers: Sequence[str]) -> Response:
        known = {name: state for name in customers if (state := self._get(name)) is not None}
        missing = list(dict.fromkeys(name for name in customers if name not in known))
        rows: dict[str, Sequence[Any]] = {name: state.arrays() for name, state in known.items()}
        if missing:
            self._fill_until = 0.0
            columns = self._store.read_customer_columns(missing)
            fresh = zip(*(columns[name] for name in CUSTOMER_STATE_FIELDS), strict=True)
            rows |= dict(zip(missing, fresh, strict=True))
        chosen = [rows[name] for name in customers]
        return {name: [row[place] for row in chosen] for place, name in enumerate(CUSTOMER_STATE_FIELDS)}

    def read_terminal_columns(self, terminals: Sequence[str]) -> Response:
        self._fill_until = 0.0
        return self._store.read_terminal_columns(terminals)

    def _get(self, name: str) -> CustomerState | None:
        generation, until, state = self._states.get(name, (-1, 0.0, None))
        return state if generation == self.generation and self._clock() < until else None
