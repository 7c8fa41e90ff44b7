"""Sums over sliding windows as of each refresh, for every entity: the states of a refreshed view, a day at a time.

Besides sums, the greatest value of a window and its last one.

Integers in, integers out, so whoever reads a state gets the same one. Windows are measured in refreshes, and an event
counts from the first refresh after the instant that it became known at: one that becomes known at a refresh is seen by
the next, in every path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.features.days import DayStates
from millrace.instants import DAY_US

Integers = NDArray[np.int64]

NONE: Final = np.iinfo(np.int64).min
"""Of a measure that tells a largest or a last value: an event without one."""
_SPAN: Final = 2**31
"""More refreshes than there are from 1970 on, so that an entity's code and a refresh fit one number."""


def first_refresh(known_us: Integers, per_day: int) -> Integers:
    """[N] instants → [N] the first refresh after each, counted from 1970 on."""
    return known_us * per_day // DAY_US + 1


class _Last:
    """Values[N] in order: the last one of a stretch."""

    def __init__(self, values: Integers) -> None:
        self._values = np.append(values, NONE)
        known = np.where(values != NONE, np.arange(len(values)), -1)
        self._place = np.append(-1, np.maximum.accumulate(known) if len(values) else known)

    def within(self, begin: Integers, end: Integers) -> Integers:
        place = self._place[end]
        return np.where(place >= begin, self._values[place], 0)


class _Greatest:
    """Values[N] in order: the largest one of a stretch, by those of all stretches whose length is a power of 2."""

    def __init__(self, values: Integers) -> None:
        self._levels = [np.append(values, NONE)]
        step = 1
        while 2 * step <= len(values):
            below = self._levels[-1]
            shifted = np.append(below[step:], np.full(step, NONE))
            self._levels.append(np.maximum(below, shifted))
            step *= 2

    def within(self, begin: Integers, end: Integers) -> Integers:
        length = end - begin
        found = np.full(len(begin), NONE)
        level = np.frexp(np.maximum(length, 1).astype(np.float64))[1] - 1  # the largest power of 2 that fits
        for number, values in enumerate(self._levels):
            rows = np.flatnonzero((level == number) & (length > 0))
            found[rows] = np.maximum(values[begin[rows]], values[end[rows] - 2**number])
        return np.where(found == NONE, 0, found)


class Windows:
    """What the events of each entity add up to in windows before a refresh."""

    def __init__(
        self,
        entity: Integers,
        known_us: Integers,
        measures: Mapping[str, Integers],
        per_day: int,
        *,
        greatest: Mapping[str, Integers] | None = None,
        last: Mapping[str, Integers] | None = None,
    ) -> None:
        """entity[N] codes and known_us[N] of the events that count, and what each adds to a measure, [N].

        `greatest` and `last` are measures of which a window tells the largest and the last value, in the order of the
        refreshes and then of the rows; an event with NONE has no value, and a window without one tells 0.
        """
        refresh = first_refresh(known_us, per_day)
        order = np.argsort(entity * _SPAN + refresh, kind="stable")
        self.per_day = per_day
        self._place = (entity * _SPAN + refresh)[order]
        self._totals = {name: np.append(0, np.cumsum(values[order])) for name, values in measures.items()}
        self._greatest = {name: _Greatest(values[order]) for name, values in (greatest or {}).items()}
        self._last = {name: _Last(values[order]) for name, values in (last or {}).items()}
        self._by_refresh = np.argsort(refresh, kind="stable")
        self._refresh, self._entity = refresh[self._by_refresh], entity[self._by_refresh]

    def day(self, day: int, columns: Sequence[tuple[str, int]]) -> DayStates:
        """The states of a day (days since 1970): a measure and a length in refreshes for each of the S columns."""
        lengths = sorted({length for _, length in columns})
        entity, refresh = self._changes(day, lengths)
        now = entity * _SPAN + refresh

        end = np.searchsorted(self._place, now, side="right")
        begin = {
            length: np.searchsorted(self._place, np.maximum(now - length, entity * _SPAN), side="right")
            for length in lengths
        }

        sums = [self._told(measure, begin[length], end) for measure, length in columns]
        key = entity * self.per_day + refresh - day * self.per_day
        return DayStates(day, self.per_day, key, np.array(sums, np.int64).reshape(len(columns), len(key)))

    def _told(self, measure: str, begin: Integers, end: Integers) -> Integers:
        """What the events from begin[C] to end[C] tell of a measure."""
        if measure in self._totals:
            total = self._totals[measure]
            added: Integers = total[end] - total[begin]
            return added
        if measure in self._greatest:
            return self._greatest[measure].within(begin, end)
        return self._last[measure].within(begin, end)

    def _changes(self, day: int, lengths: Sequence[int]) -> tuple[Integers, Integers]:
        """[C] entities and refreshes where sums may change: midnight, and where an event enters or leaves a window."""
        midnight = day * self.per_day
        tomorrow = midnight + self.per_day
        places = [np.unique(self._entity[: np.searchsorted(self._refresh, tomorrow)]) * _SPAN + midnight]
        for later in (0, *lengths):
            first, last = np.searchsorted(self._refresh, [midnight + 1 - later, tomorrow - later])
            places.append(self._entity[first:last] * _SPAN + self._refresh[first:last] + later)
        place = np.unique(np.concatenate(places))
        return place // _SPAN, place % _SPAN
