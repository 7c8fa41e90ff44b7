"""What stands between a request and the model's inputs: checked requests, and the states of their entities.

The transformer, the explainer and the skew check hold these. What they mean is the workload's (`online`); what an
answer of the online store looks like is `lookup.py`'s. Nothing here reads a store or a clock, or needs more than NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Requests:
    """B checked requests as columns."""

    event_id: NDArray[np.int64]  # [B], no value twice
    event_us: NDArray[np.int64]  # [B]
    keys: Mapping[str, list[str]]
    """Entity → [B] ids as the client sent them: pseudonymise before use."""
    values: Mapping[str, NDArray[Any]]
    """What else was asked with, by the workload's names: [B]."""
    given_ids: tuple[int | str, ...] | None = None
    """[B] event ids as the client wrote them, where one is a text that is no whole number."""

    @property
    def ids(self) -> list[int | str]:
        """[B] event ids as an answer names them."""
        return list(self.event_id.tolist()) if self.given_ids is None else list(self.given_ids)

    def __len__(self) -> int:
        return len(self.event_id)

    def part(self, start: int, end: int) -> Requests:
        """The rows from `start` to `end`."""
        return Requests(
            self.event_id[start:end],
            self.event_us[start:end],
            {name: ids[start:end] for name, ids in self.keys.items()},
            {name: values[start:end] for name, values in self.values.items()},
            None if self.given_ids is None else self.given_ids[start:end],
        )

    @classmethod
    def joined(cls, parts: Sequence[Requests]) -> Requests:
        """The rows of several, one after the other."""
        first = parts[0]
        return cls(
            np.concatenate([part.event_id for part in parts]),
            np.concatenate([part.event_us for part in parts]),
            {name: [id_ for part in parts for id_ in part.keys[name]] for name in first.keys},
            {name: np.concatenate([part.values[name] for part in parts]) for name in first.values},
            tuple(one for part in parts for one in part.ids) if any(part.given_ids for part in parts) else None,
        )

    def repeated(self, times: int) -> Requests:
        """One row → the same row so many times, in arrays of their own."""
        return Requests(
            np.repeat(self.event_id, times),
            np.repeat(self.event_us, times),
            {name: ids * times for name, ids in self.keys.items()},
            {name: np.repeat(values, times) for name, values in self.values.items()},
        )


@dataclass(frozen=True, slots=True, eq=False)
class RecentEvents:
    """The last events of one entity, oldest first in the order (event_us, event id); immutable."""

    event_ids: NDArray[np.int64]  # [n]
    event_us: NDArray[np.int64]  # [n]
    values: tuple[NDArray[Any], ...]  # each [n]; what else a recent view's fields remember, in their order

    def __len__(self) -> int:
        return len(self.event_ids)

    def position(self, event_id: int, event_us: int) -> int:
        """How many entries come strictly before this event; those before itself when it is among them."""
        found = np.flatnonzero(self.event_ids == event_id)
        if found.size:
            return int(found[0])
        if not len(self) or event_us > self.event_us[-1]:  # nearly always
            return len(self)
        earlier = int(np.searchsorted(self.event_us, event_us, side="left"))
        tied = int(np.searchsorted(self.event_us, event_us, side="right"))
        return earlier + int(np.searchsorted(self.event_ids[earlier:tied], event_id))

    def before(self, event_id: int, event_us: int) -> RecentEvents:
        """The part of the state that an event may be scored with: what came strictly before it."""
        end = self.position(event_id, event_us)
        return self if end == len(self) else self.map(lambda values: values[:end])

    def newest(self, count: int) -> RecentEvents:
        start = max(len(self) - count, 0)
        return self.map(lambda values: values[start:])

    def append(self, event_id: int, event_us: int, values: Sequence[float], capacity: int) -> RecentEvents:
        """The state with this event in its place, cut to the newest `capacity`.

        The same state when the event is in it already, so that scoring twice leaves one trace.
        """
        if event_id in self.event_ids:
            return self
        at = self.position(event_id, event_us)
        entry = zip(self.arrays(), (event_id, event_us, *values), strict=True)
        return recent(*(_inserted(column, at, value)[-capacity:] for column, value in entry))

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The columns in the order of the view's fields."""
        return self.event_ids, self.event_us, *self.values

    def map(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> RecentEvents:
        return recent(*(change(values) for values in self.arrays()))


def recent(event_ids: NDArray[np.int64], event_us: NDArray[np.int64], *values: NDArray[Any]) -> RecentEvents:
    """A state from its columns in the order of the view's fields."""
    return RecentEvents(event_ids, event_us, values)


@dataclass(frozen=True, slots=True)
class States:
    """States of the entities of B requests, by view."""

    recent: Mapping[str, Sequence[RecentEvents]]
    """[B] each."""
    refreshed: Mapping[str, NDArray[np.int64]]
    """[B, fields of the view] each; an unknown entity is a row of zeros."""
    unseen: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """[B] each, by refreshed view: whether the store has no row of the entity. Empty where no store was asked."""

    def part(self, start: int, end: int) -> States:
        """Those of the requests from `start` to `end`."""
        return States(
            {name: states[start:end] for name, states in self.recent.items()},
            {name: states[start:end] for name, states in self.refreshed.items()},
            {name: unseen[start:end] for name, unseen in self.unseen.items()},
        )

    def repeated(self, times: int) -> States:
        """Those of one request → the same so many times, in arrays of their own."""
        return States(
            {name: [*states] * times for name, states in self.recent.items()},
            {name: np.repeat(states, times, axis=0) for name, states in self.refreshed.items()},
            {name: np.repeat(unseen, times) for name, unseen in self.unseen.items()},
        )


def _inserted(values: NDArray[Any], at: int, value: float) -> NDArray[Any]:
    """What np.insert answers, which is eight times as slow for a hundred values."""
    longer = np.empty(len(values) + 1, values.dtype)
    longer[:at], longer[at], longer[at + 1 :] = values[:at], value, values[at:]
    return longer
