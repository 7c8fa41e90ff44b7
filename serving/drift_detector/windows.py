"""Rows in, windows out: sliding windows by count and tumbling ones by event time. Arrays only; no judging.

By count: the last W rows, every `hop` rows. By time: all rows of a period (a sample of them, bounded), once rows of
a later period have arrived; it sees what is too slow for a window of a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

AHEAD_ROWS: Final = 20
"""Rows of a later period that close the current one: a single wrong clock does not."""
MIN_PERIOD_ROWS: Final = 500
"""A period with fewer rows is not judged."""


@dataclass(frozen=True, slots=True)
class Rows:
    """n requests in the order they were scored; one entry per request in every array."""

    event_us: NDArray[np.int64]
    table: NDArray[np.float32]
    """[n, F + 2]: features (NaN where unknown), score, 1 for a review (0 where there are no decisions)."""

    def __len__(self) -> int:
        return len(self.event_us)

    def __getitem__(self, part: Any) -> Rows:
        return Rows(self.event_us[part], self.table[part])

    @classmethod
    def empty(cls, columns: int) -> Rows:
        return cls(np.empty(0, np.int64), np.empty((0, columns), np.float32))

    @classmethod
    def joined(cls, *parts: Rows) -> Rows:
        return cls(np.concatenate([part.event_us for part in parts]), np.concatenate([part.table for part in parts]))


class CountWindows:
    """The last `size` rows, every `hop` rows. `seen` counts all rows ever added."""

    def __init__(self, size: int, hop: int, columns: int) -> None:
        self.size, self.hop = size, hop
        self.rows = Rows.empty(columns)
        self.seen = 0

    def add(self, rows: Rows) -> Iterator[Rows]:
        """Yield each window as it becomes full."""
        while len(rows):
            take = self.hop - self.seen % self.hop
            part, rows = rows[:take], rows[take:]
            self.rows = Rows.joined(self.rows, part)[-self.size :]
            self.seen += len(part)
            if self.seen % self.hop == 0 and len(self.rows) == self.size:
                yield self.rows


class TimeWindows:
    """Rows of one period of event time, at most `capacity` of them, each as likely as another."""

    def __init__(self, period_s: float, capacity: int, columns: int) -> None:
        self.period_us = int(period_s * 1e6)
        self.capacity = capacity
        self.period: int | None = None
        self.seen = 0
        self.rows = Rows.empty(columns)
        self.ahead = Rows.empty(columns)

    def add(self, rows: Rows) -> Iterator[Rows]:
        """Yield the rows of a period when it is over; late rows count for the current one."""
        if not self.period_us or not len(rows):
            return
        if self.period is None:
            self.period = int(np.median(rows.event_us // self.period_us))
        later = rows.event_us // self.period_us > self.period
        self._keep(rows[~later])
        self.ahead = Rows.joined(self.ahead, rows[later])
        while len(self.ahead) >= AHEAD_ROWS:
            if len(self.rows) >= MIN_PERIOD_ROWS:
                yield self.rows
            ahead, self.ahead = self.ahead, self.ahead[:0]
            periods = ahead.event_us // self.period_us
            # The earliest period that has enough rows; what lies before it is late.
            self.period = int(np.sort(periods)[AHEAD_ROWS - 1])
            self.rows, self.seen = self.rows[:0], 0
            self._keep(ahead[periods <= self.period])
            self.ahead = ahead[periods > self.period]

    def _keep(self, rows: Rows) -> None:
        """A reservoir: row number i replaces a kept one with probability capacity / i, drawn from i itself."""
        room = self.capacity - len(self.rows)
        if room > 0:
            self.rows = Rows.joined(self.rows, rows[:room])
            self.seen += min(room, len(rows))
            rows = rows[room:]
        if len(rows) == 0:
            return
        numbers = self.seen + 1 + np.arange(len(rows))
        places = np.random.default_rng(self.seen).integers(0, numbers)
        kept = Rows(self.rows.event_us.copy(), self.rows.table.copy())
        for row, place in zip(
            *(array[places < self.capacity] for array in (np.arange(len(rows)), places)), strict=True
        ):
            kept.event_us[place], kept.table[place] = rows.event_us[row], rows.table[row]
        self.rows = kept
        self.seen += len(rows)
