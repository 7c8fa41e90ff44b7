"""Windows that nobody named fit what the data hold."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from millrace.errors import InvalidInput
from millrace.installed import load
from millrace.lake.windows import Cases, Windows, fit_windows

FIRST = date(2024, 1, 1)


def cases(days, a_day):
    """So many positives a day, each of a customer of its own, known after a week; a run from the last day's start."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    count = round(days * a_day)
    times = [start + timedelta(days=at) for at in np.linspace(0, days - 1e-3, count)]
    rows = pa.table(
        {
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "customer_id": [f"{number:016x}" for number in range(count)],
            "is_fraud": pa.array([1] * count, pa.int8()),
            "label_timestamp": pa.array([t + timedelta(days=7) for t in times], pa.timestamp("us", "UTC")),
        }
    )
    return Cases.among(load("fraud"), rows, start + timedelta(days=days - 1))


@pytest.mark.parametrize(
    ("days", "a_day", "wanted"),
    [
        (183, 60, Windows(train_days=28, validation_days=4, test_days=7)),
        (50, 60, Windows(train_days=28, validation_days=4, test_days=7)),
        (20, 60, Windows(train_days=4, validation_days=1, test_days=1)),
        (20, 30, Windows(train_days=3, validation_days=1, test_days=2)),
    ],
)
def test_windows_are_usual_ones_or_what_fits(days, a_day, wanted):
    assert fit_windows(cases(days, a_day), FIRST) == wanted


def test_rare_positives_bring_longer_windows():
    found = fit_windows(cases(180, 1), FIRST)

    assert found.test_days == 50
    assert found.train_days >= 100
    assert found.validation_days == 20


def test_windows_that_somebody_named_are_kept():
    assert fit_windows(cases(180, 1), FIRST, train_days=21, validation_days=3).train_days == 21
    assert fit_windows(cases(180, 1), FIRST, train_days=21, validation_days=3).validation_days == 3


@pytest.mark.parametrize(("days", "train_days", "missing"), [(10, 0, 9), (40, 28, 4)])
def test_too_few_days_are_told_in_a_sentence(days, train_days, missing):
    with pytest.raises(InvalidInput, match=f"the data hold {days - 1} days .* Give {missing} more days"):
        fit_windows(cases(days, 60), FIRST, train_days=train_days)
