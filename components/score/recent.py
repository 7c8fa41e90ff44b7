"""The recent view's events of a table, each entity's side by side: histories of rows, and states to explain them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.features.days import DayFeatures, Events
from millrace.features.histories import Pool
from millrace.inputs import RecentEvents, recent
from millrace.installed import Workload


@dataclass(frozen=True, slots=True, eq=False)
class Recent:
    """T events in the order of entity, time and id; all is empty where no view of the workload is recent."""

    workload: Workload
    pool: Pool
    event_id: NDArray[Any]
    """[T] in that order."""
    start: NDArray[np.int64]
    """[T] in that order: where the event's entity begins."""
    place: NDArray[np.int64]
    """[T] by position in the events: where the event lies in that order."""

    @classmethod
    def of(cls, workload: Workload, events: Events, remembered: Mapping[str, NDArray[Any]]) -> Recent:
        """`remembered[T]` by position: what is known of the events so far; rows that are new have yet to be filled."""
        view = workload.recent
        if view is None:
            nothing = np.empty(0, np.int64)
            return cls(workload, Pool(nothing, {}), nothing, nothing, nothing)

        entity, event_us = events.column(view.entity), events.column("event_us")
        ids = events.column(workload.schema.EVENT_ID)
        order = np.lexsort((ids, event_us, entity))
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        in_order = entity[order]
        pool = Pool(event_us[order], {name: values[order] for name, values in remembered.items()})
        return cls(workload, pool, ids[order], np.searchsorted(in_order, in_order), place)

    def remember(self, day: DayFeatures) -> None:
        """Fill in what a day's events leave in the states of their entities."""
        for name, values in self.pool.values.items():
            values[self.place[day.position]] = day.remembered[name]

    def length(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        """[B] events that came before each."""
        place = self.place[position]
        return place - self.start[place]

    def tensor(self, position: NDArray[np.int64], length: int) -> NDArray[np.float32]:
        """history[B, length, C] of the events at these positions."""
        place = self.place[position]
        channels = len(self.workload.features.HISTORY_CHANNELS)
        return self.pool.tensor(place, self.start[place], length, channels, self.workload.batch.history)

    def state(self, position: int, length: int) -> RecentEvents:
        """The last `length` events before one, as a lookup would have found them."""
        end = int(self.place[position])
        begin = max(end - length, int(self.start[end]))
        values = (column[begin:end] for column in self.pool.values.values())
        return recent(self.event_id[begin:end], self.pool.event_us[begin:end], *values)
