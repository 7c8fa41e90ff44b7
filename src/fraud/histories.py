"""What every transaction finds behind it, for all customers at once: columns in order, features and ratios out.

A history is a run of rows directly before its transaction, and so is each window in it: sums are differences of prefix
sums, and where a window begins is searched in all rows together. What a feature is stands in `formulas.py`; a property
test holds both paths equal. Blocks keep the work in the processor's cache and memory flat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud import features as f
from fraud import formulas
from millrace.features.histories import Pool
from millrace.instants import DAY_US, NEVER_US

BLOCK_ROWS: Final = 16_384
LONG_BLOCK_ROWS: Final = 4_096
"""Where whole histories are gathered, [B, N]."""


@dataclass(frozen=True, slots=True)
class ByCustomer:
    """Transactions [T] sorted by customer, time and id."""

    position: NDArray[np.int64]
    """Places in the events."""
    start: NDArray[np.int64]
    """First place of the same customer in these columns."""
    event_us: NDArray[np.int64]
    amount_cents: NDArray[np.int64]
    fraud: NDArray[np.bool_]
    """Labelled as fraud; when this became known does not matter here."""

    def before(self, rows: NDArray[np.int64], length: int) -> formulas.CustomerStates:
        """The last `length` transactions before each of `rows`, gathered."""
        pool = Pool(self.event_us, {"amount_cents": self.amount_cents})
        return formulas.states_of(pool.before(rows, self.start[rows], length))


def customer_features(histories: ByCustomer, length: int, first_us: int) -> NDArray[np.float32]:
    """[T, len(CUSTOMER_FEATURES)] by position, of transactions from `first_us` on; other rows hold anything."""
    features = np.empty((len(histories.position), len(f.CUSTOMER_FEATURES)), np.float32)
    for rows, totals in history_totals(histories, length, first_us):
        now_us, cents = histories.event_us[rows], histories.amount_cents[rows]
        features[histories.position[rows]] = formulas.customer_features_of(now_us, cents, totals)
    return features


def history_totals(
    histories: ByCustomer, length: int, first_us: int = NEVER_US
) -> Iterator[tuple[NDArray[np.int64], formulas.HistoryTotals]]:
    """Blocks of places whose transactions happened from `first_us` on, and the totals of the last `length` before."""
    cents = histories.amount_cents
    event_us = histories.event_us
    sums = _prefix_sums(cents)
    squares = _prefix_sums(cents * cents)
    largest = _largest_before(cents, histories.start, length)
    wanted = np.flatnonzero(event_us >= first_us)

    for rows in (wanted[begin : begin + BLOCK_ROWS] for begin in range(0, len(wanted), BLOCK_ROWS)):
        count = np.minimum(rows - histories.start[rows], length)
        windows = [
            _later(event_us, rows, count, event_us[rows] - days * DAY_US) for days in formulas.CUSTOMER_WINDOWS_DAYS
        ]
        inside = np.stack(windows, axis=1)
        total = sums[rows] - sums[rows - count]
        spread = count * (squares[rows] - squares[rows - count]) - total * total
        totals = formulas.HistoryTotals(
            window_count=inside,
            window_cents=sums[rows, None] - sums[rows[:, None] - inside],
            count=count,
            cents=total,
            max_cents=largest[rows],
            variance=spread / np.maximum(count * count, 1),
            last_us=np.where(count > 0, event_us[rows - 1], 0),
        )
        _correct_variance(totals, histories, rows, length)
        yield rows, totals


def amount_ratios(histories: ByCustomer) -> NDArray[np.int64]:
    """[T] by position, `amount_ratio` of every fraud when it happened, 0 for the rest: what a streak remembers."""
    ratios, frauds = np.zeros(len(histories.position), np.int64), np.flatnonzero(histories.fraud)
    for begin in range(0, len(frauds), LONG_BLOCK_ROWS):
        rows = frauds[begin : begin + LONG_BLOCK_ROWS]
        states = histories.before(rows, formulas.RATIO_HISTORY)
        ratios[histories.position[rows]] = formulas.amount_ratio(histories.amount_cents[rows], states)
    return ratios


def _prefix_sums(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """[T + 1] sums of all before. They may wrap around; the difference of two is right all the same where it fits."""
    return np.concatenate([[0], np.cumsum(values)])


def _later(
    event_us: NDArray[np.int64], rows: NDArray[np.int64], count: NDArray[np.int64], since_us: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[B] how many of the `count` rows directly before each of `rows` are later than `since_us`, by binary search."""
    found = np.zeros_like(rows)
    step = 1 << int(count.max()).bit_length()
    while step := step // 2:
        more = found + step
        found = np.where((more <= count) & (event_us[rows - np.minimum(more, count)] > since_us), more, found)
    return found


def _largest_before(cents: NDArray[np.int64], start: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """[T] largest of the last `length` amounts before each, 0 for none: the reach doubles until it is `length`."""
    place = np.arange(len(cents))
    largest, reach = np.where(place > start, np.roll(cents, 1), 0), 1
    while reach < length:
        step = min(reach, length - reach)
        largest[step:] = np.maximum(largest[step:], np.where(place[step:] - step > start[step:], largest[:-step], 0))
        reach += step
    return largest


def _correct_variance(
    totals: formulas.HistoryTotals, histories: ByCustomer, rows: NDArray[np.int64], length: int
) -> None:
    """Where amounts are so large that their squares do not fit 64 bits, take the variance of the single-row path."""
    large = np.flatnonzero(totals.max_cents > math.isqrt(np.iinfo(np.int64).max) // length)
    for begin in range(0, len(large), LONG_BLOCK_ROWS):
        part = large[begin : begin + LONG_BLOCK_ROWS]
        states = histories.before(rows[part], length)
        totals.variance[part] = formulas.history_totals(histories.event_us[rows[part]], states).variance
