"""Which days train, validate and test, where nobody says so: windows that fit how much the data hold.

Usual are 28 days to train (4 of them to validate) and a week to test. A test window with too few cases grows, up to a
third of the days that can be used (half of few); so do the others. Rows in, numbers of days out. Where windows lie:
`horizon.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import InvalidInput
from millrace.installed import Workload
from millrace.instants import microseconds
from millrace.judge.ranking import drop_known_units
from millrace.judge.rows import Mask, in_window, label_us, start_us
from millrace.lake.horizon import TEST_DAYS
from millrace.workload import Task

TRAIN_DAYS: Final = 28
VALIDATION_DAYS: Final = 4
LEAST_TRAIN_DAYS: Final = 3
"""Two to learn from, one to stop by."""
WANTED: Final[dict[Task, tuple[int, int, int]]] = {
    Task.RANKING: (100, 20, 50),
    Task.CLASSIFICATION: (100, 20, 50),
    Task.REGRESSION: (1000, 200, 300),
}
"""Cases that windows grow for, where they have fewer: to train, to validate, to test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Lengths in days; validation days are the last of the training days."""

    train_days: int
    validation_days: int
    test_days: int


@dataclass(frozen=True, slots=True)
class Cases:
    """The rows that decide what a model can be taught and judged by: positives of classes, labelled rows of a quantity.

    `rows` have the columns that judging requires, up to the instant that the run speaks from.
    """

    workload: Workload
    rows: pa.Table
    as_of: datetime

    @classmethod
    def among(cls, workload: Workload, rows: pa.Table, as_of: datetime) -> Cases:
        """Those among any rows with the columns that judging requires."""
        label = rows[workload.judging.COLUMNS.label]
        wanted = pc.is_valid(label) if workload.task is Task.REGRESSION else pc.equal(label, 1)
        return cls(workload, rows.filter(wanted), as_of)

    def testing(self, test_days: int) -> int:
        """Those that count in the latest test window of this length."""
        start = self._test_start(test_days)
        columns = self.workload.judging.COLUMNS
        known = label_us(self.rows) <= microseconds(self.as_of)
        if self.workload.task is Task.REGRESSION:
            return int((known & in_window(self.rows, start, test_days)).sum())
        return int((known & drop_known_units(self.rows, start, columns, test_days)).sum())

    def learning(self, test_days: int, days: int) -> int:
        """Those of the last `days` before the gap whose label is known when the test window begins."""
        start = self._test_start(test_days)
        delay = self.workload.schema.LABEL.delay_days
        known: Mask = label_us(self.rows) <= start_us(start)
        inside = in_window(self.rows, start - timedelta(days=delay + days), days)
        return int((known & inside).sum())

    def _test_start(self, test_days: int) -> date:
        return self.as_of.date() - timedelta(days=self.workload.schema.LABEL.delay_days + test_days)


def usable_days(first_day: date, as_of: datetime, delay_days: int) -> int:
    """Days to train and to test: those before `as_of`, but for twice the time that a label takes."""
    return (as_of.date() - first_day).days - 2 * delay_days


def needed_days(delay_days: int, train_days: int = 0) -> int:
    """The fewest days before `as_of` from which anything can be learned and judged."""
    return (train_days or LEAST_TRAIN_DAYS) + 1 + 2 * delay_days


def longest_test(usable: int, train_days: int = 0) -> int:
    """Days that a test window may grow to: what an explicit training window leaves, else a third of all.

    Of data that are shorter than usual windows are, half.
    """
    if train_days:
        return usable - train_days
    return max(usable // 3 if usable >= TRAIN_DAYS + TEST_DAYS else usable // 2, 1)


def fit_windows(
    cases: Cases,
    first_day: date,
    *,
    train_days: int = 0,
    validation_days: int = 0,
    wanted: tuple[int, int, int] | None = None,
) -> Windows:
    """Windows that fit; what is not 0 is kept as it is.

    Raises InvalidInput that says how many days there are, and how many it takes.
    """
    delay = cases.workload.schema.LABEL.delay_days
    usable = usable_days(first_day, cases.as_of, delay)
    if usable < (train_days or LEAST_TRAIN_DAYS) + 1:
        raise InvalidInput(too_short(first_day, cases.as_of, delay, train_days))

    to_train, to_validate, to_test = wanted or WANTED[cases.workload.task]
    most = longest_test(usable, train_days)
    test = min(TEST_DAYS, most if train_days else max(usable // 4, 1))
    while test < most and cases.testing(test) < to_test:
        test += 1

    train = train_days or min(TRAIN_DAYS, usable - test)
    while not train_days and train < usable - test and cases.learning(test, train) < to_train:
        train = min(train + TEST_DAYS, usable - test)

    held_out = validation_days or min(VALIDATION_DAYS, max(train // 3, 1))
    while not validation_days and held_out < train // 3 and cases.learning(test, held_out) < to_validate:
        held_out += 1
    return Windows(train_days=train, validation_days=held_out, test_days=test)


def too_short(first_day: date, as_of: datetime, delay_days: int, train_days: int = 0) -> str:
    """A sentence that says what is missing."""
    have = (as_of.date() - first_day).days
    need = needed_days(delay_days, train_days)
    train = train_days or LEAST_TRAIN_DAYS
    labels = f", and twice the {delay_days} days until labels are known" if delay_days else ""
    fewer = " or take fewer --train-days," if train_days else ""
    return (
        f"the data hold {have} days before {as_of.date()}; wanted at least {need}: "
        f"{train} to train, 1 to test{labels}. "
        f"Give {need - have} more days,{fewer} or a later --as-of."
    )


def more_days(cases: Cases, test_days: int, wanted: int, usable: int) -> tuple[float, int, int]:
    """Cases a day in a test window, days of testing that would hold `wanted`, and days of data to add for that.

    Raises InvalidInput when there is no case to reckon with.
    """
    found = cases.testing(test_days)
    if not found:
        raise InvalidInput("no case in the test window")
    rate = found / test_days
    days = math.ceil(wanted / rate)
    return rate, days, max(3 * days - usable, 1)
