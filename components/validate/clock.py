"""Has the clock of the events moved? Rows by minute of the day in, how well a moved clock explains them out.

Single days go their own way: a holiday begins an hour late, a blizzard ends at noon. A wrong time zone stays, moves
every day alike, and leaves nothing to explain once it is undone. So whole weeks are compared, all days weighing alike.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.validate.profile import Counts, Floats, Profile
from millrace.instants import date_of

RUN_DAYS: Final = 7
HOUR: Final = 60
"""In minutes."""
MOVES: Final = tuple(hours for hours in range(-11, 13) if hours)
"""Hours that a clock is tried to have moved by."""
CHANCE: Final = 1.63
"""Kolmogorov's distance exceeded by chance once in a hundred comparisons."""


def clock_shift(snapshot: Profile, judged: NDArray[np.bool_], reference: Profile) -> tuple[float | None, str]:
    """The largest of all weeks that end on a judged day, and which week it was; absent without a week to compare.

    It is the distance (Kolmogorov's) from the reference that moving the clock by whole hours takes away, less what it
    leaves and less what chance explains; never below 0.
    """
    days, minutes = _together(snapshot, reference)
    found: list[tuple[float, str]] = []
    for end in np.flatnonzero(np.isin(days, snapshot.days[judged])):
        run = slice(max(end + 1 - RUN_DAYS, 0), end + 1)
        beside = ~np.isin(reference.days, days[run])
        if end + 1 < min(RUN_DAYS, len(days)) or not beside.any():
            continue

        value, hours = _explained(days[run], minutes[run], reference.take(beside))
        found.append((value, f"by {hours:+d} h in {date_of(days[run][0])} … {date_of(days[end])}"))
    return max(found, default=(None, "no week to compare"), key=lambda one: one[0] or 0.0)


def _together(snapshot: Profile, reference: Profile) -> tuple[Counts, Counts]:
    """Days of both sides in order, and their rows by minute [D, 1440]: the snapshot's where both have a day."""
    earlier = ~np.isin(reference.days, snapshot.days)
    days = np.concatenate([reference.days[earlier], snapshot.days])
    minutes = np.concatenate([reference.minutes[earlier], snapshot.minutes])
    order = np.argsort(days)
    return days[order], minutes[order]


def _explained(days: Counts, minutes: Counts, reference: Profile) -> tuple[float, int]:
    """What the best move of the clock explains of a week, and the hours of that move."""
    now = _shares(minutes).mean(axis=0)
    usual = np.mean([_usual(reference, day) for day in days], axis=0)
    left = {hours: _distance(now, np.roll(usual, hours * HOUR)) for hours in MOVES}
    best = min(left, key=lambda hours: left[hours])

    chance = CHANCE * np.sqrt(1 / minutes.sum() + 1 / reference.rows.sum())
    taken_away = _distance(now, usual) - left[best]
    return float(max(taken_away - left[best] - chance, 0.0)), best


def _usual(reference: Profile, day: int) -> Floats:
    """[1440] shares of the reference's rows on that weekday; on any day where it has no such day."""
    same = reference.days % 7 == day % 7
    shares: Floats = _shares(reference.minutes[same if same.any() else slice(None)].sum(axis=0))
    return shares


def _shares(counts: Counts) -> Floats:
    return counts / counts.sum(axis=-1, keepdims=True)


def _distance(a: Floats, b: Floats) -> float:
    """Kolmogorov's, of shares by minute."""
    return float(np.abs((a - b).cumsum()).max())
