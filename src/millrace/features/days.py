"""What goes into a workload's batch features and what comes out of them, a day at a time.

These are plain columns. How events are read from a snapshot stands in `events.py`, how days are written in
`components/build_features`, and what a feature means in the workload.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.instants import DAY_US


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """T events in one stable order, as columns that can be sorted and summed.

    `table` has `position`, the event id, `event_us`, one integer code for each entity under the entity's name, the
    label under its own name, `label_us`, and the values that the workload adds.
    """

    table: pa.Table
    ids: Mapping[str, pa.Array]
    """Entity → the ids behind its codes, sorted."""

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> NDArray[Any]:
        """A column without nulls as an array [T]."""
        return np.asarray(self.table[name].to_numpy())


@dataclass(frozen=True, slots=True, eq=False)
class DayStates:
    """A view's states on one day, C rows by entity and refresh: each as of midnight, then whenever it changed.

    A row holds until the entity's next one. An entity has no row before its first event is seen.
    """

    day: int
    """Days since 1970."""
    per_day: int
    """Refreshes of a day."""
    key: NDArray[np.int64]
    """[C] code of the entity × per_day + refresh of the day, ascending."""
    state: NDArray[np.int64]
    """[S, C] in the order of the view's fields; the values of a field lie side by side, as files want them."""

    @property
    def entity(self) -> NDArray[np.int64]:
        """[C] codes."""
        return self.key // self.per_day

    @property
    def refresh(self) -> NDArray[np.int64]:
        """[C] of the day, 0 at midnight."""
        return self.key % self.per_day

    def knows(self, entity: NDArray[Any], now_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[B] codes, each as of an instant of the day → [B] whether there is a row."""
        if not len(self.key):
            return np.zeros(len(entity), bool)
        row = np.searchsorted(self.key, self._key(entity, now_us), side="right") - 1
        known: NDArray[np.bool_] = (row >= 0) & (self.key.take(row, mode="clip") // self.per_day == entity)
        return known

    def _key(self, entity: NDArray[Any], now_us: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(entity * self.per_day + now_us % DAY_US * self.per_day // DAY_US, np.int64)

    def at(self, entity: NDArray[Any], now_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] codes, each as of an instant of the day → [B, S]; zeros for those without a row."""
        if not len(self.key):
            return np.zeros((len(entity), len(self.state)), np.int64)
        row = np.searchsorted(self.key, self._key(entity, now_us), side="right") - 1
        states = self.state.take(row, axis=1, mode="clip")
        states[:, (row < 0) | (self.key.take(row, mode="clip") // self.per_day != entity)] = 0
        return states.T


@dataclass(frozen=True, slots=True, eq=False)
class DayFeatures:
    """One day's B events with their features, and the states from the first of its refreshes to the last."""

    position: NDArray[np.int64]
    """[B] places of the day's events in `Events`, ascending."""
    features: NDArray[np.float32]
    """[B, F] in the order of FEATURE_NAMES."""
    remembered: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """[B] each: the columns that a feature set stores beside those of the snapshot."""
    states: Mapping[str, DayStates] = field(default_factory=dict)
    """Every refreshed view by name."""
