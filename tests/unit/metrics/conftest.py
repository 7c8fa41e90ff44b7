"""Small judged rows and raw tables for the metric tests."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from millrace.judge.ranking import Judged

TEST_START = date(2018, 6, 1)


@pytest.fixture
def table():
    """A maker of raw tables; the first test day is `table.test_start`."""
    make_table.test_start = TEST_START
    return make_table


@pytest.fixture
def simple():
    """A maker of judged rows."""
    return make_rows


def make_table(rows):
    """Rows of (customer, days from the test start as a float, is_fraud or None, label delay in days) → pa.Table."""
    midnight = datetime.combine(TEST_START, datetime.min.time(), UTC)
    events = [midnight + timedelta(days=day) for _, day, _, _ in rows]
    stamp = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "event_timestamp": pa.array(events, stamp),
            "customer_id": pa.array([customer for customer, *_ in rows], pa.string()),
            "is_fraud": pa.array([fraud for _, _, fraud, _ in rows], pa.int8()),
            "label_timestamp": pa.array(
                [
                    None if fraud is None else event + timedelta(days=delay)
                    for event, (_, _, fraud, delay) in zip(events, rows, strict=True)
                ],
                stamp,
            ),
            "amount_cents": pa.array([1000] * len(rows), pa.int64()),
        }
    )


def make_rows(labels, cards=None, days=None, amounts=None):
    """Judged rows of one day, a card each, unless told otherwise."""
    n = len(labels)
    cards = np.arange(n) if cards is None else np.array(cards, np.int64)
    return Judged(
        cards,
        np.zeros(n, np.int64) if days is None else np.array(days, np.int64),
        np.array(labels, bool),
        np.ones(n) if amounts is None else np.array(amounts, float),
        int(cards.max()) + 1 if n else 0,
    )


@pytest.fixture
def random_week():
    """A week of 4,000 rows of 300 cards with scores that know something, many of them equal."""
    rng = np.random.default_rng(1)
    labels = rng.random(4000) < 0.05
    rows = make_rows(labels, rng.integers(0, 300, 4000), rng.integers(0, 7, 4000), rng.random(4000) * 100)
    scores = np.round(np.clip(rng.random(4000) * 0.8 + labels * rng.random(4000) * 0.5, 0, 1), 2)
    return rows, scores
