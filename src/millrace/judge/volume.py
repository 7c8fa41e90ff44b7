"""Is the feed still there? Counts of events against what this hour usually brings, as a whole and by ranges of ids.

Past event times in, a profile out; times of the last hour in, what is silent out. Ids of an entity are cut into ranges
of neighbours with about equal traffic: what one sender delivers usually has neighbouring ids, and a range that falls
silent is seen long before the total is low. Each look tests every range and window at `ALPHA`, so that a month of
looks every minute gives a false alarm in less than one month of ten (a union bound over looks that overlap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US
WINDOWS_MIN: Final = (5, 10, 30, 60)
RANGES: Final = 5
TOLERANCE: Final = 0.25
"""A count this share below the usual is no outage: days differ by more than chance."""
ALPHA: Final = 1e-7
"""Chance of a false alarm of one window of one range at one look; 43,200 looks × 24 × 1e-7 = 0.1 a month."""
WEEKLY_FROM_DAYS: Final = 21
"""With so many past days, hours of the week are told apart; with fewer, hours of the day."""

Micros = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Profile:
    """What an hour usually brings: rate[range, hour] events a minute; range 0 is everything."""

    cuts: NDArray[np.object_]
    """Ids where ranges begin, without the first."""
    rate: NDArray[np.float64]
    start_us: int
    """Midnight from which hours are counted."""
    kind: str = ""
    """What the ids are of, for names of ranges."""

    def range_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """[N] number of each id's range, from 1."""
        return 1 + np.searchsorted(self.cuts, _sortable(ids), side="right")


@dataclass(frozen=True, slots=True)
class Silence:
    """A window that brought too little."""

    range: str
    """`all`, or ids of which entity, from where and below which."""
    minutes: int
    events: int
    expected: float
    chance: float
    """Chance of as few events, or fewer, from a feed that works."""


def profile(
    event_us: Micros, ids: Sequence[str], days: int, counts: NDArray[np.int64] | None = None, *, kind: str = ""
) -> Profile:
    """The usual volume of the last `days` whole days, from all their events; raises InvalidInput for none.

    An entry may stand for `counts` events of one id in one hour of the week. `kind`: what the ids are of.
    """
    if not len(event_us) or days < 1:
        raise InvalidInput(f"{len(event_us)} events of {days} days; wanted at least one day with events")

    keys = _sortable(ids)
    weights = np.ones(len(keys), np.int64) if counts is None else counts
    cuts = _cuts(keys, weights)
    start = int(event_us.max()) // DAY_US * DAY_US - 7 * DAY_US
    hours = 168 if days >= WEEKLY_FROM_DAYS else 24
    hour = (event_us - start) // HOUR_US % hours
    part = np.searchsorted(cuts, keys, side="right")

    total = np.zeros((len(cuts) + 2, hours))
    np.add.at(total, (part + 1, hour), weights)
    total[0] = total[1:].sum(axis=0)

    occurrences = days * 24 / hours
    return Profile(cuts, total / occurrences / 60, start, kind)


def silences(usual: Profile, event_us: Micros, ids: Sequence[str], now: datetime) -> list[Silence]:
    """Windows ending `now` that brought fewer events than chance allows, the least likely first. Empty is well.

    `event_us[N]` and `ids[N]`: at least the last hour; what is outside a window is not read.
    """
    end = int(now.timestamp() * 1_000_000)
    part = usual.range_of(ids) if len(event_us) else np.empty(0, np.int64)

    found = []
    for minutes in WINDOWS_MIN:
        inside = (event_us >= end - minutes * MINUTE_US) & (event_us < end)
        counts = np.bincount(part[inside], minlength=len(usual.rate))
        counts[0] = inside.sum()
        expected = _expected(usual, end, minutes)
        chance = np.array([_chance(*pair) for pair in zip(counts, expected * (1 - TOLERANCE), strict=True)])
        found += [
            Silence(_name(usual, int(row)), minutes, int(counts[row]), float(expected[row]), float(chance[row]))
            for row in np.flatnonzero(chance < ALPHA)
        ]

    return sorted(found, key=lambda item: item.chance)


def _expected(usual: Profile, end_us: int, minutes: int) -> NDArray[np.float64]:
    """[ranges] events of the `minutes` before `end_us`, minute by minute: a window may span two hours."""
    at = end_us - np.arange(1, minutes + 1) * MINUTE_US
    hours: NDArray[np.int64] = (at - usual.start_us) // HOUR_US % usual.rate.shape[1]
    expected: NDArray[np.float64] = usual.rate[:, hours].sum(axis=1)
    return expected


def _chance(count: int, mean: float) -> float:
    """Chance of at most `count` events where Poisson's law expects `mean`; 1 for as many as expected: no silence."""
    if count >= mean:
        return 1.0
    number = np.arange(count + 1)
    logarithm = number * np.log(mean) - mean - np.cumsum(np.log(np.maximum(number, 1)))
    return float(np.exp(logarithm).sum())


def _cuts(keys: NDArray[np.object_], weights: NDArray[np.int64]) -> NDArray[np.object_]:
    """Keys at which the ranges begin that have about equal weights."""
    order = np.argsort(keys, kind="stable")
    reached = np.cumsum(weights[order])
    wanted = np.arange(1, RANGES) * int(reached[-1]) // RANGES
    cuts: NDArray[np.object_] = np.unique(keys[order][np.searchsorted(reached, wanted, side="right")])
    return cuts


def _sortable(ids: Sequence[str]) -> NDArray[np.object_]:
    """Ids in an order where numbers are numbers: `9` before `10`."""
    return np.array([str(name).rjust(20, "0") for name in ids], dtype=object)


def _name(usual: Profile, row: int) -> str:
    if row == 0:
        return "all"
    low = "" if row == 1 else f"from {usual.cuts[row - 2].lstrip('0')} "
    high = "" if row > len(usual.cuts) else f"below {usual.cuts[row - 1].lstrip('0')}"
    return f"{usual.kind} {low}{high}".strip()
