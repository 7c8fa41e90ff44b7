"""What is known of every terminal, a day at a time: events in, TERMINAL_STATE_FIELDS out wherever they change.

Between midnights only labels change a state: those that become known, and those that leave a window. So a day costs
its labels, not terminals × refreshes. What the fields mean is said in `formulas.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud import features as f
from fraud import formulas
from millrace.features.days import DayStates

_HAPPENED, _LABELLED, _FRAUD = range(3)
_WINDOWS: Final = (
    *((_HAPPENED, days) for days in formulas.TERMINAL_VOLUME_WINDOWS_DAYS),
    *((_LABELLED, days) for days in formulas.TERMINAL_LABEL_WINDOWS_DAYS),
    *((_FRAUD, days) for days in formulas.TERMINAL_LABEL_WINDOWS_DAYS),
)
"""What is counted and over how many days, in the order of the fields."""


@dataclass(frozen=True, slots=True)
class Happened:
    """E events of a kind in the order of the refreshes, numbered from 1970 on, that are the first to see them."""

    refresh: NDArray[np.int64]
    terminal: NDArray[np.int64]

    def on(self, day: int, days: int = 1) -> slice:
        """Those first seen on `day`, or from then on for so many days."""
        return slice(*np.searchsorted(self.refresh, np.array([day, day + days]) * f.REFRESHES_PER_DAY))

    def before(self, day: int) -> slice:
        return slice(self.on(day).start)

    def keys(self, day: int) -> NDArray[np.int64]:
        """Keys of the terminals first seen on a day, as in `DayStates`."""
        here = self.on(day)
        return self.terminal[here] * f.REFRESHES_PER_DAY + self.refresh[here] % f.REFRESHES_PER_DAY


@dataclass(frozen=True, slots=True)
class Labels(Happened):
    """Labels in the order of revelation."""

    fraud: NDArray[np.bool_]
    event_us: NDArray[np.int64]
    ratio: NDArray[np.int64]
    """`amount_ratio` of the transaction; read where it is a fraud."""

    def take(self, rows: slice | NDArray[np.int64]) -> Labels:
        return Labels(*(getattr(self, field.name)[rows] for field in fields(self)))


class Terminals:
    """All T terminals from midnight to midnight; what lies before `first_day` is counted at once."""

    def __init__(self, count: int, happened: Happened, labels: Labels, first_day: int) -> None:
        self._day = first_day
        self._labels = labels
        self._streaks = Streaks(count)
        frauds = Happened(labels.refresh[labels.fraud], labels.terminal[labels.fraud])
        self._seen = (happened, labels, frauds)

        self._appeared = np.zeros(count, np.bool_)
        self._appeared[happened.terminal[happened.before(first_day)]] = True
        self._streaks.reveal(labels.take(labels.before(first_day)))

        counts = [
            np.bincount(events.terminal[events.on(first_day - days, days)], minlength=count)
            for events, days in ((self._seen[kind], days) for kind, days in _WINDOWS)
        ]
        self._state = np.stack([*counts, *self._streaks.fields])

    def next_day(self) -> DayStates:
        """The states of the day, and on to the next."""
        day = self._day
        happened = self._seen[_HAPPENED]
        self._day += 1
        self._appeared[happened.terminal[happened.on(day)]] = True

        there = np.flatnonzero(self._appeared)
        key = self._touched(day, there * f.REFRESHES_PER_DAY)
        row = np.empty(len(self._appeared) * f.REFRESHES_PER_DAY, np.int64)
        row[key] = np.arange(len(key))
        state = self._steps(day, row, len(key))
        changed = self._sum_up(state, there, row[there * f.REFRESHES_PER_DAY])

        # Few were touched and are what they were: as many labels came as left every window.
        kept = slice(None) if changed.all() else changed
        return DayStates(day, f.REFRESHES_PER_DAY, key[kept], state[:, kept])

    def _touched(self, day: int, midnight: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keys where something happens to a terminal, and those of `midnight`; ascending."""
        touched = np.zeros(len(self._appeared) * f.REFRESHES_PER_DAY, np.bool_)
        touched[midnight] = True
        for days in (0, *formulas.TERMINAL_LABEL_WINDOWS_DAYS):
            touched[self._labels.keys(day - days)] = True
        return np.flatnonzero(touched)

    def _sum_up(
        self, steps: NDArray[np.int64], there: NDArray[np.int64], midnight: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Make states of `steps`, in place; which are of midnight or another than the row before."""
        changed = np.zeros(steps.shape[1], np.bool_)
        changed[midnight] = True
        owner = np.cumsum(changed) - 1
        last = np.roll(midnight, -1) - 1

        for field, step in zip(self._state, steps, strict=True):
            changed |= step != 0
            np.cumsum(step, out=step)  # over all terminals: each begins where the one before it ended
            begin = np.roll(step[last], 1)
            begin[:1] = 0
            step += (field[there] - begin)[owner]
            field[there] = step[last]
        return changed

    def _steps(self, day: int, row: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """[S, count] by how much each field changes; `row[T * REFRESHES_PER_DAY]` is where."""
        steps = np.zeros((len(self._state), count), np.int64)
        new = [row[events.keys(day)] for events in self._seen]
        for step, (kind, days) in zip(steps, _WINDOWS, strict=False):
            np.add.at(step, new[kind], 1)
            np.subtract.at(step, row[self._seen[kind].keys(day - days)], 1)
        for key, by in self._streak_steps(day):
            steps[len(_WINDOWS) :, row[key]] = by
        return steps

    def _streak_steps(self, day: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Keys and changes, refresh by refresh; most labels are genuine and end no streak, so they are left out."""
        labels = self._labels.take(self._labels.on(day))
        matters = self._streaks.running
        matters[labels.terminal[labels.fraud]] = True
        labels = labels.take(np.flatnonzero(matters[labels.terminal]))
        ends = np.searchsorted(labels.refresh % f.REFRESHES_PER_DAY, np.arange(f.REFRESHES_PER_DAY + 1))

        for refresh, (begin, end) in enumerate(pairwise(ends)):
            new = labels.take(slice(begin, end))
            changed = np.unique(new.terminal)
            before = self._streaks.fields[:, changed]
            self._streaks.reveal(new)
            yield changed * f.REFRESHES_PER_DAY + refresh, self._streaks.fields[:, changed] - before


class Streaks:
    """Revealed frauds since the last revealed genuine transaction, of T terminals."""

    def __init__(self, count: int) -> None:
        self.fields = np.zeros((4, count), np.int64)
        """[4, T], the last of TERMINAL_STATE_FIELDS."""
        self._streak, self._start_us, self._last_fraud_us, self._least_ratio = self.fields
        self._newest_genuine = np.empty(count, np.int64)

    @property
    def running(self) -> NDArray[np.bool_]:
        """[T] whether the newest label is a fraud."""
        return np.asarray(self._streak > 0)

    def reveal(self, labels: Labels) -> None:
        """Those of any stretch of time: a genuine one ends the streak of its terminal, a fraud extends or begins it."""
        terminal, genuine = labels.terminal, labels.terminal[~labels.fraud]
        self._newest_genuine[terminal] = -1
        self._newest_genuine[genuine] = np.flatnonzero(~labels.fraud)  # of several the last is kept
        for field in (self._streak, self._start_us, self._least_ratio):
            field[genuine] = 0
        frauds = np.flatnonzero(labels.fraud)
        np.maximum.at(self._last_fraud_us, terminal[frauds], labels.event_us[frauds])
        frauds = frauds[frauds > self._newest_genuine[terminal[frauds]]]
        self._extend(terminal[frauds], labels.event_us[frauds], labels.ratio[frauds])

    def _extend(self, terminal: NDArray[np.int64], event_us: NDArray[np.int64], ratio: NDArray[np.int64]) -> None:
        """Streaks go on, or begin, with these frauds."""
        new = terminal[self._streak[terminal] == 0]
        np.add.at(self._streak, terminal, 1)
        for field, values in ((self._start_us, event_us), (self._least_ratio, ratio)):
            field[new] = np.iinfo(np.int64).max
            np.minimum.at(field, terminal, values)
