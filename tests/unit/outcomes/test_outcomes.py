"""Figures by day and version, what they are before labels are in, and which rows they are made from."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from millrace.installed import load
from millrace.judge.bootstrap import Interval
from millrace.judge.expectation import Calibration, calibrate, expected
from millrace.judge.outcomes import answers, complete_days, day_of, stretch
from millrace.judge.yardsticks import Ranks

Stream = Callable[..., pa.Table]
LABEL = load("fraud").schema.LABEL
FRAUD = load("fraud").judging
YARDSTICK = Ranks(FRAUD.COLUMNS, FRAUD.LOG_COLUMNS, k=20, review_cost=5.0)


def judge_rows(rows: pa.Table) -> tuple[Any, Any]:
    sample = YARDSTICK.sample(rows)
    return sample.rows, sample.answers


def estimate(rows: pa.Table, calibration: Calibration, draws: int, seed: int = 0) -> dict[str, Interval]:
    sample = YARDSTICK.unlabelled(rows)
    flagged = np.asarray(rows["decision"].to_pylist()) == "review"
    return expected(sample.rows, sample.answers, flagged, calibration, 20, draws, seed)


def unlabelled_after(rows: pa.Table, as_of: datetime) -> pa.Table:
    """The labels as they were known at `as_of`."""
    known = pc.less_equal(rows["label_timestamp"], pa.scalar(as_of, rows["label_timestamp"].type))
    label = pc.if_else(known, rows["is_fraud"], pa.scalar(None, pa.int8()))
    return rows.set_column(rows.column_names.index("is_fraud"), "is_fraud", label)


def replaced(rows: pa.Table, name: str, value: str) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array([value] * len(rows)))


def test_shadows_repeats_and_rows_without_a_score_are_no_answers(stream: Stream) -> None:
    rows = stream(1)
    again = replaced(rows.slice(0, 10), "prediction_id", "later").set_column(
        rows.column_names.index("scored_at"), "scored_at", pc.add(rows["scored_at"].slice(0, 10), timedelta(hours=1))
    )
    shadow = replaced(rows.slice(0, 20), "arm", "shadow")
    lost = rows.slice(0, 5).set_column(
        rows.column_names.index("transaction_id"), "transaction_id", pa.array([10**9 + i for i in range(5)])
    )
    lost = lost.set_column(rows.column_names.index("score"), "score", pa.array([None] * 5, pa.float64()))

    found = answers(pa.concat_tables([again, shadow, rows, lost]), "fraud")

    assert found["prediction_id"].to_pylist() == rows["prediction_id"].to_pylist()


def test_a_day_is_complete_when_its_labels_are_due_and_in(stream: Stream, after: Callable[[int], datetime]) -> None:
    rows = stream(12)
    seen = unlabelled_after(rows, after(10))

    whole = complete_days(seen, after(10), 0.95, LABEL)
    half = complete_days(seen, after(10) + timedelta(hours=12), 0.95, LABEL)

    assert list(whole - day_of(rows).min()) == [0, 1, 2]
    assert list(half) == list(whole)


def test_a_day_whose_labels_did_not_come_is_not_judged(stream: Stream, after: Callable[[int], datetime]) -> None:
    rows = stream(3)
    frauds_only = pc.if_else(pc.equal(rows["is_fraud"], 1), rows["is_fraud"], pa.scalar(None, pa.int8()))
    rows = rows.set_column(rows.column_names.index("is_fraud"), "is_fraud", frauds_only)

    assert len(complete_days(rows, after(12), 0.95, LABEL)) == 0
    part = stretch(rows, "1", YARDSTICK, complete=False, resamples=20)
    assert part.figures == {}
    assert part.to_dict()["labelled_share"] < 0.1


def test_figures_come_with_intervals_that_hold_them(stream: Stream) -> None:
    part = stretch(stream(7), "1", YARDSTICK, complete=True, resamples=60)

    precision = part.figures["average_precision"]
    assert precision.low < precision.value < precision.high
    assert set(part.to_dict()["figures"]) == {
        "average_precision", "unit_precision", "calibration_error", "brier_skill", "cost_ratio",
    }  # fmt: skip
    assert part.to_dict()["first_day"] == "2018-06-01"


def test_the_estimate_without_labels_covers_what_turns_out(stream: Stream) -> None:
    covered = 0
    for seed in range(20):
        calibration = calibrate(*judge_rows(stream(7, seed=seed)))
        week = stream(7, seed=seed, first_day=7)
        guess = estimate(week, calibration, draws=40, seed=seed)["average_precision"]
        truth = stretch(week, "1", YARDSTICK, complete=True, resamples=20).figures["average_precision"]
        covered += guess.low <= truth.value <= guess.high

    assert covered >= 15, f"{covered} of 20; 95 % intervals should miss about one"


def test_the_estimate_follows_an_overconfident_model_down(stream: Stream) -> None:
    honest, overconfident = (calibrate(*judge_rows(stream(7, truth=truth))) for truth in (1.0, 0.4))
    week = stream(3, first_day=7)

    a, b = (estimate(week, known, draws=20)["precision"].value for known in (honest, overconfident))

    assert b < 0.6 * a


def test_the_estimate_needs_no_frauds_to_learn_from(stream: Stream) -> None:
    rows = stream(1)
    data, scores = judge_rows(rows)

    nothing = calibrate(data.where(np.zeros(len(data), bool)), scores[:0])

    assert isinstance(nothing, Calibration)
    assert nothing(np.array([0.2, 0.9])) == pytest.approx([0.2, 0.9])
