"""A stream of scored transactions whose labels follow the scores: calibrated by construction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

START = datetime(2018, 6, 1, tzinfo=UTC)


def scored(
    days: int, rows_a_day: int = 600, cards: int = 400, seed: int = 0, first_day: int = 0, **planted: Any
) -> pa.Table:
    """Rows as the log gives them, labelled. `burst_from_day`: five more cards a day lose six unsuspected payments."""
    rng = np.random.default_rng([seed, first_day])
    parts = []
    for day in range(first_day, first_day + days):
        p = np.where(rng.random(rows_a_day) < 0.02, rng.beta(4, 3, rows_a_day), rng.beta(0.5, 120, rows_a_day))
        card = rng.integers(0, cards, rows_a_day)
        label = rng.random(rows_a_day) < p * planted.get("truth", 1.0)
        if day >= planted.get("burst_from_day", 10**6):
            victims = rng.choice(cards, 5 * (day - planted["burst_from_day"] + 1), replace=False).repeat(6)
            card = np.concatenate([card, victims])
            p = np.concatenate([p, rng.beta(0.5, 120, len(victims))])
            label = np.concatenate([label, np.ones(len(victims), bool)])
        second = np.sort(rng.integers(0, 86_400, len(p)))
        parts.append((np.full(len(p), day), second, card, p, label))
    day, second, card, p, label = (np.concatenate(column) for column in zip(*parts, strict=True))
    moment = np.array(int(START.timestamp() * 1e6)) + (day * 86_400 + second) * 1_000_000
    utc = pa.timestamp("us", tz="UTC")
    number = first_day * 10**6 + np.arange(len(p))
    return pa.table(
        {
            "prediction_id": pa.array([f"e{i}" for i in number]),
            "scored_at": pa.array(moment).cast(utc),
            "transaction_id": pa.array(number),
            "event_timestamp": pa.array(moment).cast(utc),
            "customer_id": pa.array([f"c{i}" for i in card]),
            "terminal_id": pa.array([str(i) for i in rng.integers(0, 500, len(p))]),
            "amount": pa.array(rng.gamma(2, 30, len(p)).round(2)),
            "model_version": pa.array(["1"] * len(p)),
            "score": pa.array(p),
            "decision": pa.array(np.where(p > 0.3, "review", "approve")),
            "degraded": pa.array(np.zeros(len(p), bool)),
            "stage": pa.array(["full"] * len(p)),
            "arm": pa.array(["champion"] * len(p)),
            "latency_ms": pa.array(np.full(len(p), 5.0)),
            "is_fraud": pa.array(label.astype(np.int8)),
            "label_timestamp": pa.array(moment + 7 * 86_400 * 10**6).cast(utc),
        }
    )


@pytest.fixture(scope="session")
def stream() -> Callable[..., pa.Table]:
    """`stream(days, rows_a_day=600, seed=0, burst_from_day=…, truth=…)`."""
    return scored


@pytest.fixture(scope="session")
def start() -> datetime:
    return START


@pytest.fixture(scope="session")
def after() -> Callable[[int], datetime]:
    """`after(days)`: an instant so many days after the start."""
    return lambda days: START + timedelta(days=days)
