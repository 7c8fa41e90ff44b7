"""A home with a prediction log: days of answers, labels that came a week later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logged import label_row, told

from fraud.features import FEATURE_NAMES, FEATURE_SERVICE
from millrace.events.log import engine, migrate, write_labels, write_predictions
from millrace.settings import Settings

START = datetime(2018, 6, 1, tzinfo=UTC)


def fill(settings: Settings, days: int, **options: Any) -> None:
    """Write `days` of answers and their labels; see `rows_of`."""
    log = engine(settings)
    migrate(log)
    rows = [row for day in range(days) for row in rows_of(day, **options)]
    write_predictions(log, [told({k: v for k, v in row.items() if k != "is_fraud"}) for row in rows])
    delay = timedelta(days=7)
    write_labels(
        log,
        (label_row(row["transaction_id"], row["is_fraud"], row["event_timestamp"] + delay) for row in rows),
    )
    log.dispose()


def rows_of(
    day: int,
    *,
    a_day: int = 300,
    version: str = "1",
    burst_from: int = 10**6,
    degraded: float = 0.0,
    missing: float = 0.0,
    silent_from_hour: int = 24,
    silent_day: int = -1,
) -> list[dict[str, Any]]:
    rng = np.random.default_rng([7, day])
    p = np.where(rng.random(a_day) < 0.03, rng.beta(4, 3, a_day), rng.beta(0.5, 120, a_day))
    card = rng.integers(0, 150, a_day)
    label = rng.random(a_day) < p
    if day >= burst_from:
        victims = rng.choice(150, 5 * (day - burst_from + 1), replace=False).repeat(6)
        card, p = np.concatenate([card, victims]), np.concatenate([p, np.full(len(victims), 0.003)])
        label = np.concatenate([label, np.ones(len(victims), bool)])
    second = rng.integers(0, 86_400, len(p))
    kept = np.flatnonzero((second < silent_from_hour * 3600) | (day != silent_day))
    features = [1.0] * len(FEATURE_NAMES)
    holes = [None] * len(FEATURE_NAMES)
    return [
        {
            "workload": "fraud",
            "prediction_id": f"{day}-{i}",
            "scored_at": START + timedelta(days=day, seconds=int(second[i])),
            "transaction_id": day * 10**6 + int(i),
            "event_timestamp": START + timedelta(days=day, seconds=int(second[i])),
            "customer_id": f"c{card[i]}",
            "terminal_id": str(int(rng.integers(0, 99))),
            "amount": float(rng.gamma(2, 30)),
            "model_name": "fraud-detector",
            "model_version": version,
            "score": float(p[i]),
            "decision": "review" if p[i] > 0.3 else "approve",
            "degraded": bool(rng.random() < degraded),
            "stage": "full",
            "arm": "champion",
            "latency_ms": 4.0,
            "features": holes if rng.random() < missing else features,
            "feature_service": FEATURE_SERVICE,
            "is_fraud": label[i],
        }
        for i in kept
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    return Settings()


@pytest.fixture
def log_of(home: Settings) -> Callable[..., Settings]:
    """`log_of(days, burst_from=…, degraded=…)` → the settings of a home whose log holds that."""

    def build(days: int, **options: Any) -> Settings:
        fill(home, days, **options)
        return home

    return build


@pytest.fixture
def after() -> Callable[..., datetime]:
    """`after(days, hours=0)`: an instant so long after the first day began."""
    return lambda days, hours=0: START + timedelta(days=days, hours=hours)
