"""A feature set of random transactions: right schema, meaningless features, every day of two months."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.features import FEATURE_NAMES, FEATURE_SERVICE
from millrace.instants import DAY_US
from millrace.lake.manifest import Manifest, content_id

FIRST_DAY = date(2026, 1, 1)
DAYS = 60
START_US = (FIRST_DAY - date(1970, 1, 1)).days * DAY_US


def random_transactions(rows: int, seed: int = 0) -> pa.Table:
    """Transactions of 20 customers; every fifth label takes 9 days instead of 7, one in ten is never known."""
    rng = np.random.default_rng(seed)
    event_us = START_US + np.sort(rng.integers(0, DAYS * 24 * 60, rows)) * 60_000_000  # whole minutes: ties happen
    delay = np.where(rng.random(rows) < 0.2, 9, 7) * DAY_US
    known = rng.random(rows) < 0.9
    columns = {
        "transaction_id": np.arange(rows, dtype=np.int64),
        "event_timestamp": pa.array(event_us, pa.timestamp("us", tz="UTC")),
        "customer_id": [f"customer-{number}" for number in rng.integers(0, 20, rows)],
        "terminal_id": [f"terminal-{number}" for number in rng.integers(0, 30, rows)],
        "amount_cents": rng.integers(1, 30_000, rows),
        "is_fraud": pa.array((rng.random(rows) < 0.3).astype(np.int8), mask=~known),
        "label_timestamp": pa.array(event_us + delay, pa.timestamp("us", tz="UTC"), mask=~known),
        "terminal_risk": rng.random(rows).astype(np.float32),
        "channel": ["web"] * rows,
    }
    features = {name: rng.random(rows).astype(np.float32) for name in FEATURE_NAMES}
    return pa.table(columns | features)


def write_feature_set(lake: Path, transactions: pa.Table, history_length: int) -> Manifest:
    """Partition `transactions` by day, as build_features does."""
    day = transactions["event_timestamp"].cast(pa.int64()).to_numpy() // DAY_US
    folder = lake / "feature_sets" / "made"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for number in range(DAYS):
        name = str(FIRST_DAY + timedelta(days=number))
        pq.write_table(transactions.filter(day == START_US // DAY_US + number), folder / f"{name}.parquet")
        paths[name] = f"{name}.parquet"
    facts = {
        "tables": {"events": paths},
        "feature_service": FEATURE_SERVICE,
        "history_length": history_length,
        "first_day": str(FIRST_DAY),
        "last_day": str(FIRST_DAY + timedelta(days=DAYS - 1)),
    }
    identity = content_id(facts | {"rows": transactions.num_rows, "sum": int(np.sum(transactions["amount_cents"]))})
    return Manifest(
        kind="feature_set", id=identity, workload="fraud", uri=str(folder), parents={"snapshot": "s" * 16}, facts=facts
    )


@pytest.fixture(scope="session")
def transactions() -> pa.Table:
    return random_transactions(3_000)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def feature_set(lake: Path, transactions: pa.Table) -> Manifest:
    return write_feature_set(lake, transactions, history_length=16)


@pytest.fixture
def feature_set_of(lake: Path) -> Callable[..., Manifest]:
    """feature_set_of(transactions, history_length) → a feature set in this test's lake."""
    return lambda table, history_length=16: write_feature_set(lake, table, history_length)
