"""What stands between a request and the model's inputs: checked requests, and the states of their entities.

The transformer, the explainer and the skew check hold these. What they mean is the workload's (`online`); what an
answer of the online store looks like is Feast's. Nothing here reads a store or a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import SchemaMismatch
from millrace.workload import View

Response = Mapping[str, Sequence[Any]]
"""What Feast's `get_online_features(...).to_dict()` gives: equally long lists, in which what is unknown is None."""

NEVER_US: Final = np.iinfo(np.int64).min // 2
"""Event time of padding: older than any window."""


@dataclass(frozen=True, slots=True)
class Requests:
    """B checked requests as columns."""

    event_id: NDArray[np.int64]  # [B], no value twice
    event_us: NDArray[np.int64]  # [B]
    keys: Mapping[str, list[str]]
    """Entity → [B] ids as the client sent them: pseudonymise before use."""
    values: Mapping[str, NDArray[Any]]
    """What else was asked with, by the workload's names: [B]."""

    def __len__(self) -> int:
        return len(self.event_id)


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
        return self.map(lambda values: values[-count:])

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


def empty(view: View) -> RecentEvents:
    """The state of an entity that nobody has seen."""
    return recent(*(np.empty(0, dtype) for dtype in _dtypes(view)))


@dataclass(frozen=True, slots=True)
class States:
    """States of the entities of B requests, by view."""

    recent: Mapping[str, Sequence[RecentEvents]]
    """[B] each."""
    refreshed: Mapping[str, NDArray[np.int64]]
    """[B, fields of the view] each; an unknown entity is a row of zeros."""


def states_of(response: Response, views: Sequence[View], rows: int) -> States:
    """The states in an answer of the store; raises SchemaMismatch for a field that it lacks."""
    found = {view.name: [_column(response, name) for name in view.fields] for view in views}
    return States(
        {view.name: _recent(view, found[view.name], rows) for view in views if view.recent},
        {view.name: _refreshed(found[view.name]) for view in views if not view.recent},
    )


def unknown_states(views: Sequence[View], rows: int) -> States:
    """States of entities that nobody has seen, which stand in for those of a store that does not answer."""
    return States(
        {view.name: [empty(view)] * rows for view in views if view.recent},
        {view.name: np.zeros((rows, len(view.fields)), np.int64) for view in views if not view.recent},
    )


def _recent(view: View, columns: Sequence[Sequence[Any]], rows: int) -> list[RecentEvents]:
    dtypes, nothing = _dtypes(view), empty(view)
    states = [
        nothing
        if row[0] is None
        else recent(*(np.asarray(values, dtype) for values, dtype in zip(row, dtypes, strict=True)))
        for row in zip(*columns, strict=True)
    ]
    assert len(states) == rows
    return states


def _refreshed(columns: Sequence[Sequence[Any]]) -> NDArray[np.int64]:
    return np.array([[value or 0 for value in column] for column in columns], np.int64).T


def _dtypes(view: View) -> list[Any]:
    return [field.value_type.to_pandas_dtype() for field in view.fields.values()]


def _column(response: Response, name: str) -> Sequence[Any]:
    try:
        return response[name]
    except KeyError:
        raise SchemaMismatch(
            f"the online answer has no column {name!r}, only {sorted(response)}. "
            "Ask for the workload's feature service; when it lacks the column, materialise again."
        ) from None


def _inserted(values: NDArray[Any], at: int, value: float) -> NDArray[Any]:
    """As np.insert, which is eight times as slow for a hundred values."""
    longer = np.empty(len(values) + 1, values.dtype)
    longer[:at], longer[at], longer[at + 1 :] = values[:at], value, values[at:]
    return longer
