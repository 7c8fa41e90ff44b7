"""Two sides of a prediction log that is known by construction."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from logged import label_row, told

from millrace.errors import NotFound
from millrace.events.log import engine, migrate, write_labels, write_predictions
from millrace.installed import load
from millrace.judge.comparison import compare, shift
from millrace.settings import Settings
from run.compare import main

START = datetime(2018, 9, 1, tzinfo=UTC)
ROWS = 3_000
FRAUD = load("fraud")


def predictions(*sides: tuple[str, str, float], shared: bool = True, labelled: bool = True, seed: int = 0) -> pa.Table:
    """Sides (arm, version, noise): scores are the truth and noise. Not `shared`: half of the customers each."""
    rng = np.random.default_rng(seed)
    fraud, customer = rng.random(ROWS) < 0.1, rng.integers(0, 300, ROWS)
    parts = []
    for number, (arm, version, noise) in enumerate(sides):
        score = np.clip(0.2 + 0.6 * fraud + noise * rng.normal(size=ROWS), 0, 1)
        table = pa.table(
            {
                "prediction_id": [f"{arm}-{i}" for i in range(ROWS)],
                "scored_at": pa.array(
                    [START + timedelta(minutes=5 * i) for i in range(ROWS)], pa.timestamp("us", "UTC")
                ),
                "transaction_id": np.arange(ROWS),
                "event_timestamp": pa.array(
                    [START + timedelta(minutes=5 * i) for i in range(ROWS)], pa.timestamp("us", "UTC")
                ),
                "customer_id": [f"{c:016x}" for c in customer],
                "amount": np.full(ROWS, 10.0),
                "model_version": [version] * ROWS,
                "score": score,
                "decision": np.where(score >= 0.5, "review", "approve"),
                "degraded": [False] * ROWS,
                "stage": ["full"] * ROWS,
                "arm": [arm] * ROWS,
                "latency_ms": np.full(ROWS, 3.0),
                "is_fraud": pa.array(fraud.astype(np.int8), mask=np.full(ROWS, not labelled)),
                "label_timestamp": pa.array([START] * ROWS, pa.timestamp("us", "UTC")),
            }
        )
        parts.append(table if shared else table.filter(pa.array(customer % 2 == number)))
    return pa.concat_tables(parts)


def test_a_side_against_itself_agrees_and_differs_by_nothing() -> None:
    found = compare(
        predictions(("champion", "3", 0.2), ("shadow", "3", 0.2)), "champion", "champion", FRAUD, resamples=50
    )

    change = found.metrics["average precision"][2]
    assert (found.agreement, found.paired_rows, found.psi) == (1.0, ROWS, 0.0)
    assert (change.value, change.low, change.high) == (0.0, 0.0, 0.0)


def test_a_better_shadow_is_told_from_the_champion() -> None:
    found = compare(predictions(("champion", "3", 0.5), ("shadow", "4", 0.2)), "champion", "4", FRAUD, resamples=100)

    a, b, change = found.metrics["average precision"]
    assert (found.a.versions, found.b.versions, found.paired_rows) == (("3",), ("4",), ROWS)
    assert change.value == pytest.approx(b - a)
    assert change.low > 0
    assert sum(sum(row.values()) for row in found.decisions.values()) == ROWS
    assert found.agreement == pytest.approx(
        (found.decisions["review"]["review"] + found.decisions["approve"]["approve"]) / ROWS
    )


def test_swapping_the_sides_turns_the_differences_around() -> None:
    rows = predictions(("champion", "3", 0.4), ("shadow", "4", 0.3))

    there, back = compare(rows, "3", "4", FRAUD, resamples=50), compare(rows, "4", "3", FRAUD, resamples=50)

    for name, (a, b, change) in there.metrics.items():
        assert back.metrics[name][:2] == (b, a)
        assert back.metrics[name][2].value == pytest.approx(-change.value)
        assert back.metrics[name][2].low == pytest.approx(-change.high)


def test_divided_customers_are_compared_without_pairs() -> None:
    found = compare(
        predictions(("champion", "3", 0.3), ("challenger", "4", 0.3), shared=False),
        "champion",
        "challenger",
        FRAUD,
    )

    assert (found.paired_rows, found.agreement, found.decisions) == (0, None, {})
    change = found.metrics["average precision"][2]
    assert change.low < 0 < change.high
    assert found.psi < 0.05


def test_without_labels_nothing_is_said_about_who_is_better() -> None:
    found = compare(predictions(("champion", "3", 0.3), ("shadow", "4", 0.3), labelled=False), "3", "4", FRAUD)

    assert found.metrics == {}
    assert found.labelled == (0, 0)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_shifted_score_shows_in_the_shift() -> None:
    scores = np.random.default_rng(0).random(5_000)

    assert shift(scores, scores) == 0
    assert shift(scores, np.random.default_rng(1).random(5_000)) < 0.02
    assert shift(scores, scores**2) > 0.25
    assert np.isfinite(shift(np.zeros(10), np.ones(10)))


def test_an_unknown_side_names_those_there_are() -> None:
    with pytest.raises(NotFound, match=r"arms \['champion', 'shadow'\] and versions \['3', '4'\]"):
        compare(predictions(("champion", "3", 0.3), ("shadow", "4", 0.3)), "champion", "challenger", FRAUD)


def test_the_page_is_written_from_the_log_and_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    log = engine(Settings())
    migrate(log)
    rows: list[dict[str, Any]] = predictions(("champion", "3", 0.4), ("shadow", "4", 0.2)).to_pylist()
    labels = [{name: row.pop(name) for name in ("is_fraud", "label_timestamp")} for row in rows]
    write_predictions(log, [told({"workload": "fraud"} | row) for row in rows])
    known = [(row["transaction_id"], *label.values()) for row, label in zip(rows, labels, strict=True)]
    write_labels(log, [label_row(*label) for label in known])
    log.dispose()

    status = main(["champion", "shadow", "--since", "2018-09-02", "--as-of", "2018-10-01"])
    unknown = main(["champion", "9"])
    nothing = main(["champion", ""])

    out = capsys.readouterr()
    assert (status, unknown, nothing) == (0, 1, 1)
    assert "B is better" in out.out
    assert "compare: no predictions of model_version '9'" in out.err
    html = (tmp_path / "report" / "fraud" / "comparison.html").read_text()
    assert "version 4" in html
    assert "average precision" in html
    assert "comparison.html" in (tmp_path / "report" / "fraud" / "index.html").read_text()
    document = json.loads((tmp_path / "report" / "fraud" / "comparison.json").read_text())
    assert document["metrics"]["average precision"]["difference"]["low"] > 0
    assert document["paired_rows"] == ROWS - 288
