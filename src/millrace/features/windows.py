"""Sums over sliding windows as of each refresh, for every entity: the states of a refreshed view, a day at a time.

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

_SPAN: Final = 2**31
"""More refreshes than there are from 1970 on, so that an entity's code and a refresh fit one number."""


def first_refresh(known_us: Integers, per_day: int) -> Integers:
    """[N] instants → [N] the first refresh after each, counted from 1970 on."""
    return known_us * per_day // DAY_US + 1


class Windows:
    """What the events of each entity add up to in windows before a refresh."""

    def __init__(self, entity: Integers, known_us: Integers, measures: Mapping[str, Integers], per_day: int) -> None:
        """entity[N] codes and known_us[N] of the events that count, and what each adds to a measure, [N]."""
        refresh = first_refresh(known_us, per_day)
        order = np.argsort(entity * _SPAN + refresh, kind="stable")
        self.per_day = per_day
        self._place = (entity * _SPAN + refresh)[order]
        self._totals = {name: np.append(0, np.cumsum(values[order])) for name, values in measures.items()}
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

        sums = [self._totals[measure][end] - self._totals[measure][begin[length]] for measure, length in columns]
        key = entity * self.per_day + refresh - day * self.per_day
        return DayStates(day, self.per_day, key, np.array(sums, np.int64).reshape(len(columns), len(key)))

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
