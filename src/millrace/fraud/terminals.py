"""What is known of every terminal, walked forward from refresh to refresh: events in, TERMINAL_STATE_FIELDS out.

A step may hold any stretch of time, as long as its labels are in the order of revelation. What the fields mean is said
in `features.py`.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.fraud import features as f

LONGEST_WINDOW_DAYS: Final = max(f.TERMINAL_VOLUME_WINDOWS_DAYS + f.TERMINAL_LABEL_WINDOWS_DAYS)
_HAPPENED, _LABELLED, _FRAUD = range(3)
_WINDOWS: Final = (
    *((_HAPPENED, days) for days in f.TERMINAL_VOLUME_WINDOWS_DAYS),
    *((_LABELLED, days) for days in f.TERMINAL_LABEL_WINDOWS_DAYS),
    *((_FRAUD, days) for days in f.TERMINAL_LABEL_WINDOWS_DAYS),
)
"""What is counted and over how many days, in the order of the fields."""


class Terminals:
    """All T terminals as of a refresh; totals since the beginning, and what they were at the refreshes before."""

    def __init__(self, count: int) -> None:
        self._totals = np.zeros((3, count), np.int64)
        self._past: deque[NDArray[np.int64]] = deque(maxlen=LONGEST_WINDOW_DAYS * f.REFRESHES_PER_DAY + 1)
        self._streak, self._streak_start_us, self._last_fraud_us, self._least_ratio = np.zeros((4, count), np.int64)

    @property
    def appeared(self) -> NDArray[np.bool_]:
        """[T] whether there was a transaction."""
        return np.asarray(self._totals[_HAPPENED] > 0)

    def step(
        self,
        happened: NDArray[np.int64],
        terminal: NDArray[np.int64],
        fraud: NDArray[np.bool_],
        event_us: NDArray[np.int64],
        ratio: NDArray[np.int64],
    ) -> None:
        """To the next refresh: `happened[B]` are terminals of new transactions; the others, [L], are new labels."""
        count = self._totals.shape[1]
        self._totals += [np.bincount(rows, minlength=count) for rows in (happened, terminal, terminal[fraud])]
        self._past.append(self._totals.copy())
        newest_genuine = np.full(count, -1)
        newest_genuine[terminal[~fraud]] = np.flatnonzero(~fraud)  # of several the last is kept
        for field in (self._streak, self._streak_start_us, self._least_ratio):
            field[terminal[~fraud]] = 0
        frauds = np.flatnonzero(fraud)
        np.maximum.at(self._last_fraud_us, terminal[frauds], event_us[frauds])
        self._extend(
            *(column[frauds[frauds > newest_genuine[terminal[frauds]]]] for column in (terminal, event_us, ratio))
        )

    def _extend(self, terminal: NDArray[np.int64], event_us: NDArray[np.int64], ratio: NDArray[np.int64]) -> None:
        """Streaks go on, or begin, with these frauds."""
        new = terminal[self._streak[terminal] == 0]
        np.add.at(self._streak, terminal, 1)
        for field, values in ((self._streak_start_us, event_us), (self._least_ratio, ratio)):
            field[new] = np.iinfo(np.int64).max
            np.minimum.at(field, terminal, values)

    def write(self, state: NDArray[np.int64]) -> None:
        """Fill `state[S, T]`; as many steps as the longest window has refreshes, and one, must lie behind."""
        for field, (kind, days) in zip(state, _WINDOWS, strict=False):
            np.subtract(self._totals[kind], self._past[-1 - days * f.REFRESHES_PER_DAY][kind], out=field)
        state[len(_WINDOWS) :] = self._streak, self._streak_start_us, self._last_fraud_us, self._least_ratio
