"""What a backtest says of a test window, by task."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from millrace.errors import InvalidInput
from millrace.installed import Workload, load
from millrace.judge.rows import Columns
from run.figures import figures_of, mean_of

START = date(2026, 3, 2)


def rows(column: str, labels: list[float | None], unit: str) -> pa.Table:
    times = [datetime(2026, 3, 2, tzinfo=UTC) + timedelta(hours=hour) for hour in range(len(labels))]
    return pa.table(
        {
            "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
            unit: [f"u{row % 3}" for row in range(len(labels))],
            column: labels,
            "label_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )


def test_of_a_ranking_they_end_with_what_reviewing_brings() -> None:
    fraud = load("fraud")
    table = rows("is_fraud", [0, 1, 0, 1], "customer_id").append_column("transaction_id", pa.array([7, 8, 9, 10]))
    table = table.append_column("amount_cents", pa.array([100] * 4))

    found = figures_of(
        fraud, table, np.array([10, 9, 8, 7]), {"score": np.float32([0.9, 0.1, 0.8, 0.2])}, START, 7, k=1
    )

    assert found == {"rows": 4, "positives": 2, "AUC": 1.0, "AP": 1.0, "card precision@1": 1.0}


def test_an_event_that_was_not_scored_is_an_error() -> None:
    table = rows("is_fraud", [0, 1], "customer_id").append_column("transaction_id", pa.array([7, 8]))
    table = table.append_column("amount_cents", pa.array([100] * 2))

    with pytest.raises(InvalidInput, match="1 of 2 scores"):
        figures_of(load("fraud"), table, np.array([7]), {"score": np.float32([0.9])}, START, 7, k=1)


def test_of_a_quantity_they_are_errors_in_its_unit_and_the_share_that_its_interval_holds(
    machines: Workload,
) -> None:
    assert Columns(unit="machine", label="hours") == machines.judging.COLUMNS
    table = rows("hours", [10.0, 12.0, None, 14.0], "machine").append_column("reading_id", pa.array([1, 2, 3, 4]))
    score = np.float32([11.0, 12.0, 5.0, 11.0])
    outputs = {"score": score, "low": score - 2, "high": score + 2}

    found = figures_of(machines, table, np.array([1, 2, 3, 4]), outputs, START, 28, k=1)

    assert found["rows"] == 3
    assert found["MAE, hours"] == pytest.approx(4 / 3)
    assert found["RMSE, hours"] == pytest.approx((10 / 3) ** 0.5)
    assert found["bias, hours"] == pytest.approx(-2 / 3)
    assert found["coverage"] == pytest.approx(2 / 3)
    assert found["interval, hours"] == pytest.approx(4.0)


def test_counts_have_no_mean() -> None:
    assert mean_of([{"rows": 3, "AP": 0.5}, {"rows": 5, "AP": 0.7}]) == pytest.approx({"AP": 0.6})
