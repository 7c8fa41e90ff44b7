"""Which days of a training set train, validate and test. Dates in, windows and horizons out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from millrace.errors import InvalidInput
from millrace.instants import start_of
from millrace.lake.horizon import TEST_DAYS
from millrace.lake.training_set import SPLITS


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSpec:
    """Which days train, validate and test (docs/architecture.md, Time). Days are UTC, ends exclusive."""

    test_start: date
    """First day of the test window; the labels of train and validation are those known at its start."""
    train_days: int = 28
    """Days before the gap, validation included."""
    validation_days: int = 4
    """The last of the training days, held out for early stopping."""
    delay_days: int
    """Gap between training and test: labels of these days are not known yet (`Label.delay_days` of the workload)."""
    test_days: int = TEST_DAYS
    labels_until: datetime | None = None
    """Test labels known at this instant count; default: when the delay after the test window is over."""

    def __post_init__(self) -> None:
        if not isinstance(self.test_start, date) or isinstance(self.test_start, datetime):
            raise InvalidInput(f"test_start is {self.test_start!r}; wanted a date, such as date(2018, 9, 16)")
        for name, least in (("train_days", 2), ("validation_days", 1), ("delay_days", 0), ("test_days", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidInput(f"{name} is {value!r}; wanted an integer of at least {least}")
        if self.labels_until is not None and self.labels_until.tzinfo is None:
            raise InvalidInput(f"labels_until is {self.labels_until}; wanted a time with its zone, such as …T00:00Z")
        if self.validation_days >= self.train_days:
            raise InvalidInput(
                f"validation_days is {self.validation_days}; wanted less than train_days {self.train_days}"
            )

    @property
    def train_start(self) -> date:
        return self.validation_end - timedelta(days=self.train_days)

    @property
    def validation_start(self) -> date:
        return self.validation_end - timedelta(days=self.validation_days)

    @property
    def validation_end(self) -> date:
        return self.test_start - timedelta(days=self.delay_days)

    @property
    def test_end(self) -> date:
        return self.test_start + timedelta(days=self.test_days)

    @property
    def windows(self) -> dict[str, tuple[date, date]]:
        """Split → (first day, day after the last)."""
        windows = (
            (self.train_start, self.validation_start),
            (self.validation_start, self.validation_end),
            (self.test_start, self.test_end),
        )
        return dict(zip(SPLITS, windows, strict=True))

    @property
    def horizons(self) -> dict[str, datetime]:
        """Split → the instant at which its labels must be known."""
        start = start_of(self.test_start)
        test = self.labels_until or start_of(self.test_end + timedelta(days=self.delay_days))
        return dict(zip(SPLITS, (start, start, test), strict=True))
