"""Windowed aggregates of a column over an entity's past: of recent events, or as of the last refresh.

Where the entity has a recent view, an aggregate is of its last N events strictly before the row, in the order of time
and id, as the base's own features are. Of any other entity it is a state as of a refresh, of the events before that.
Neither sees the row itself, nor what comes later. What was never said counts nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.features.days import DayStates
from millrace.features.histories import Histories
from millrace.features.windows import NONE, Windows, first_refresh
from millrace.fields import View
from millrace.instants import NEVER_US
from millrace.variants.columns import HOUR_US, MISSING, Floats, Said

SCALE: Final = 1_000_000
"""States are integers: numbers are kept in millionths, and sums of them are exact."""
MOST: Final = 1e12
"""Numbers beyond this, either way, count as this in a state."""
EVENTS: Final = "events"
"""Stands for the column where events themselves are counted."""
ALWAYS_DAYS: Final = 3650
"""Window in which the last that was said of an entity holds."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OwnAggregate:
    """One feature, and beside it, where a window may hold nothing, whether it does."""

    name: str
    of: str
    """The column; empty: events are counted."""
    entity: str
    stat: str
    hours: int

    @property
    def features(self) -> tuple[str, ...]:
        return (self.name,) if self.stat in ("count", "sum") else (self.name, f"{self.name}_{MISSING}")

    def recent(self, now_us: Integers, past: Histories) -> NDArray[np.float32]:
        """[B] instants and what lies before them → [B, features]."""
        values = past.values[remembered(self.of)] if self.of else np.ones(past.event_us.shape)
        start = (now_us - self.hours * HOUR_US)[:, None]
        inside = (past.event_us != NEVER_US) & (past.event_us > start) & ~np.isnan(values)
        count = inside.sum(axis=1)
        if self.stat == "count":
            return self._found(count, count)
        if self.stat == "max":
            return self._found(np.where(inside, values, -np.inf).max(axis=1, initial=-np.inf), count)
        if self.stat == "last":
            place = inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
            return self._found(np.take_along_axis(values, place[:, None], axis=1)[:, 0], count)

        total = np.where(inside, values, 0.0).sum(axis=1)
        return self._found(total if self.stat == "sum" else total / np.maximum(count, 1), count)

    def refreshed(self, state: Mapping[str, Integers]) -> NDArray[np.float32]:
        """Fields of the entity's state, [B] each → [B, features]."""
        count = state[field_of(self, "count")]
        if self.stat == "count":
            return self._found(count, count)
        value = state[field_of(self, "sum" if self.stat == "mean" else self.stat)] / SCALE
        return self._found(value / np.maximum(count, 1) if self.stat == "mean" else value, count)

    def _found(self, value: NDArray[Any], count: Integers) -> NDArray[np.float32]:
        value = np.where(count > 0, value, 0.0)
        columns = [value] if len(self.features) == 1 else [value, count == 0]
        return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)


def remembered(column: str) -> str:
    """What a recent view and a feature set call what was said in a column."""
    return f"own_{column}"


def field_of(aggregate: OwnAggregate, what: str) -> str:
    """The field of a state that an aggregate reads: count, sum, max or last of its column in its window."""
    return f"own_{aggregate.entity}_{aggregate.of or EVENTS}_{what}_{aggregate.hours}h"


def view_of(entity: str, aggregates: Sequence[OwnAggregate]) -> View:
    """The states of an entity without a recent view."""
    return View(view_name(entity), entity, dict.fromkeys(_fields(aggregates), pa.int64()), recent=False)


def view_name(entity: str) -> str:
    return f"own_{entity}_state"


class Sums:
    """The states of one entity from refresh to refresh, from all events there are."""

    def __init__(
        self,
        aggregates: Sequence[OwnAggregate],
        entity: Integers,
        event_us: Integers,
        order: Integers,
        said: Said,
        per_day: int,
        scales: Mapping[str, int],
    ) -> None:
        """entity[T] codes and event_us[T]; order[T] puts events in the order of time and id; said[T] by column.

        `scales` says what values of a column are multiplied by to be kept as integers, where not by SCALE.
        """
        fields = _fields(aggregates).values()
        measures: dict[str, dict[str, Integers]] = {"count": {}, "sum": {}, "max": {}, "last": {}}
        for of, what, _ in fields:
            values = (said[of] if of else np.ones(len(event_us)))[order]
            measures[what][f"{of}_{what}"] = _measure(values, what, scales.get(of, SCALE))

        added = measures["count"] | measures["sum"]
        told = {"greatest": measures["max"], "last": measures["last"]}
        self._windows = Windows(entity[order].astype(np.int64), event_us[order], added, per_day, **told)
        self._first = np.full(int(entity.max(initial=-1)) + 1, np.iinfo(np.int64).max)
        np.minimum.at(self._first, entity, first_refresh(event_us, per_day))
        self._wanted = [(f"{of}_{what}", hours * per_day // 24) for of, what, hours in fields]

    def day(self, day: int) -> DayStates:
        """The states of a day (days since 1970), in the order of the view's fields; none before an entity's first."""
        states = self._windows.day(day, self._wanted)
        known = self._first[states.entity] <= day * states.per_day + states.refresh
        return DayStates(day, states.per_day, states.key[known], states.state[:, known])


def _measure(values: Floats, what: str, scale: int) -> Integers:
    """[T] what is said → what each event is to a measure."""
    known = ~np.isnan(values)
    if what == "count":
        return known.astype(np.int64)
    most = MOST * SCALE / scale
    fixed = np.rint(np.clip(np.where(known, values, 0.0), -most, most) * scale).astype(np.int64)
    return fixed if what == "sum" else np.where(known, fixed, NONE)


def _fields(aggregates: Sequence[OwnAggregate]) -> dict[str, tuple[str, str, int]]:
    """Field of a state → column, what of it, hours."""
    fields: dict[str, tuple[str, str, int]] = {}
    for one in aggregates:
        parts = {"mean": ("count", "sum"), "count": ("count",)}.get(one.stat, ("count", one.stat))
        fields |= {field_of(one, what): (one.of, what, one.hours) for what in parts}
    return fields


def stack(parts: Sequence[NDArray[np.float32]], rows: int) -> NDArray[np.float32]:
    """[rows, …] of all parts side by side; of no parts nothing."""
    return np.concatenate([np.empty((rows, 0), np.float32), *parts], axis=1)


def last_of(column: str, said: Floats, past: Histories) -> Floats:
    """[B] what is said, or where nothing is the last that was in the recent events."""
    values = past.values[remembered(column)]
    known = (past.event_us != NEVER_US) & ~np.isnan(values)
    place = known.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    last = np.where(known.any(axis=1), np.take_along_axis(values, place[:, None], axis=1)[:, 0], np.nan)
    found: Floats = np.where(np.isnan(said), last, said)
    return found
