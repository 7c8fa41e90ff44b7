"""What an event finds behind it, for many events at once: slices of one pool, padded on the left.

An entity's events lie side by side in the pool, so a history is stored once, however many events look back on it.
The tensors are made by the workload (`Batch.history`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.instants import NEVER_US

GATHER_ROWS: Final = 256
"""Rows gathered at a time: what lies between pool and tensor stays in the cache, which halves the cost of a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """The last events before B others, oldest first, padded on the left to N."""

    event_us: NDArray[np.int64]
    """[B, N]; padding is NEVER_US."""
    values: Mapping[str, NDArray[Any]]
    """[B, N] each: what the recent view remembers of an event, by field; padding is 0."""
    length: NDArray[np.int64]
    """[B] entries that are not padding."""


HistoryTensor = Callable[[NDArray[np.int64], Histories, int], NDArray[np.float32]]
"""`Batch.history`: times[B] of the events, what lies before them, length → history[B, length, C]."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """T events sorted by the entity of the recent view, by time and by id."""

    event_us: NDArray[np.int64]
    """[T]"""
    values: Mapping[str, NDArray[Any]]
    """[T] each, by field of the recent view."""

    def before(self, position: NDArray[np.int64], start: NDArray[np.int64], length: int) -> Histories:
        """The last `length` events before each of position[B]; start[B] is the first place of the same entity."""
        index = position[:, None] + np.arange(-length, 0)
        absent = index < start[:, None]
        index[absent] = 0
        event_us = self.event_us.take(index)
        event_us[absent] = NEVER_US
        values = {name: column.take(index) for name, column in self.values.items()}
        for taken in values.values():
            taken[absent] = 0
        return Histories(event_us, values, np.minimum(position - start, length))

    def tensor(
        self, position: NDArray[np.int64], start: NDArray[np.int64], length: int, channels: int, make: HistoryTensor
    ) -> NDArray[np.float32]:
        """history[B, length, channels] of the events at position[B], a few rows at a time."""
        history = np.empty((len(position), length, channels), np.float32)
        for begin in range(0, len(position), GATHER_ROWS):
            part = slice(begin, begin + GATHER_ROWS)
            past = self.before(position[part], start[part], length)
            history[part] = make(self.event_us[position[part]], past, length)
        return history
