"""Terminal states in memory: they change on the hour, and reading them is two thirds of a lookup's cost.

An entry lives for `ttl_s`, never past the hour (refreshes are on the hour), and never past a refill: the store says
what it was filled from, and that is asked after each lookup. While it is what it was when the entries were read, the
lookup was of the same fill, also while `materialize` swaps it. One thread reads at a time, so a terminal that many
wait for is asked for once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from fraud.features import TERMINAL_STATE_FIELDS
from fraud.online import Response
from serving.transformer.fill import NEVER_FILLED

MAX_TERMINALS: Final = 50_000
"""About 40 MB; the ones that came first leave first."""
_HOUR_S: Final = 3600
_TRIES: Final = 3


class DividedStore(Protocol):
    """A store that gives customers and terminals apart, and says what it was filled from."""

    def read(self, customers: Sequence[str], terminals: Sequence[str]) -> Response: ...
    def contents(self) -> str | None: ...
    def read_customer_columns(self, customers: Sequence[str]) -> Response: ...
    def read_terminal_columns(self, terminals: Sequence[str]) -> Response: ...


class CachedTerminals:
    """`read` as of the store behind it; for one thread at a time."""

    def __init__(self, store: DividedStore, ttl_s: float, clock: Callable[[], float] = time.time) -> None:
        self._store, self._ttl_s, self._clock = store, ttl_s, clock
        self._states: dict[str, tuple[float, tuple[Any, ...]]] = {}
        self._fill: str | None = None

    def __len__(self) -> int:
        return len(self._states)

    def read(self, customers: Sequence[str], terminals: Sequence[str]) -> Response:
        """One row per pair; unknown entities are None."""
        for _ in range(_TRIES):
            if not self._fill:
                self._fill = self._store.contents()
            if self._fill == NEVER_FILLED:
                return self._store.read(customers, terminals)  # which says so
            columns = dict(self._store.read_customer_columns(customers))
            states = self._read_terminals(terminals)
            fill = self._store.contents()
            if fill == self._fill:
                break
            self._states.clear()  # swapped: customers of one day may have met terminals of another
            self._fill = fill
        for place, name in enumerate(TERMINAL_STATE_FIELDS):
            columns[name] = [state[place] for state in states]
        return columns

    def _read_terminals(self, terminals: Sequence[str]) -> list[tuple[Any, ...]]:
        now = self._clock()
        found = {name: state for name in set(terminals) if (state := self._get(name, now)) is not None}
        missing = list(dict.fromkeys(name for name in terminals if name not in found))
        if missing:
            columns = self._store.read_terminal_columns(missing)
            fresh = zip(*(columns[name] for name in TERMINAL_STATE_FIELDS), strict=True)
            found |= dict(zip(missing, fresh, strict=True))
            self._put(missing, found, min(now + self._ttl_s, (now // _HOUR_S + 1) * _HOUR_S))
        return [found[name] for name in terminals]

    def _get(self, name: str, now: float) -> tuple[Any, ...] | None:
        expires, state = self._states.get(name, (0.0, None))
        return state if now < expires else None

    def _put(self, names: Iterable[str], states: dict[str, tuple[Any, ...]], expires: float) -> None:
        for name in names:
            self._states.pop(name, None)
            self._states[name] = (expires, states[name])
        while len(self._states) > MAX_TERMINALS:
            del self._states[next(iter(self._states))]
