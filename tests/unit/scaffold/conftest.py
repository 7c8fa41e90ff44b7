"""Three tables as people have them: contacts that end in churn, readings of machines, sales of products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

DAYS = 60


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name → file."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    files = {name: folder / file for name, file in FILES.items()}
    churn(rng).to_csv(files["churn"], index=False)
    sensor(rng).to_parquet(files["sensor"])
    demand(rng).to_csv(files["demand"], index=False)
    return files


FILES = {"churn": "churn.csv", "sensor": "sensor.parquet", "demand": "demand.csv"}


def churn(rng: np.random.Generator, rows: int = 3000) -> pd.DataFrame:
    """A whole number for an id, a class, a category, a number with holes."""
    client, plan = rng.integers(0, 200, rows), rng.choice(["basic", "plus", "pro"], rows)
    tenure = rng.integers(0, 60, rows).astype(float)
    tenure[rng.random(rows) < 0.05] = np.nan
    chance = 1 / (1 + np.exp(1.5 - rng.normal(0, 1.5, 200)[client] - (plan == "basic")))
    return pd.DataFrame(
        {
            "contact_id": np.arange(rows) + 1000,
            "contact_time": times(rng, rows),
            "client_id": client,
            "Plan": plan,
            "tenure months": tenure,
            "churned": (rng.random(rows) < chance).astype(int),
        }
    )


def sensor(rng: np.random.Generator, rows: int = 3000) -> pd.DataFrame:
    """No id, text keys, a rare class."""
    return pd.DataFrame(
        {
            "timestamp": times(rng, rows),
            "machine": [f"M-{number:03d}" for number in rng.integers(0, 30, rows)],
            "vibration": rng.gamma(2, 1, rows).round(3),
            "mode": rng.choice(["idle", "run"], rows),
            "failure": (rng.random(rows) < 0.1).astype(int),
        }
    )


def demand(rng: np.random.Generator) -> pd.DataFrame:
    """A quantity, two keys, and two columns that may be what is predicted."""
    days = pd.date_range("2025-03-01 09:00", periods=DAYS)
    rows = [(day, f"S{store}", f"P{item:02d}") for day in days for store in range(4) for item in range(15)]
    table = pd.DataFrame(rows, columns=["date", "store_id", "product_id"])
    table["price"] = (5 + rng.random(len(table)) * 3).round(2)
    table["units_sold"] = rng.poisson(4, len(table))
    return table


def times(rng: np.random.Generator, rows: int) -> pd.Series:
    seconds = np.sort(rng.uniform(0, DAYS * 86400, rows)).astype(int)
    return pd.Timestamp("2025-01-01") + pd.to_timedelta(pd.Series(seconds), unit="s")
