"""Figures by day and version, what they are before labels are in, and which rows they are made from."""

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from millrace.judge.outcomes import (
    Calibration,
    answers,
    calibrate,
    complete_days,
    day_of,
    expected,
    judge_rows,
    stretch,
)

Stream = Callable[..., pa.Table]


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

    found = answers(pa.concat_tables([again, shadow, rows, lost]))

    assert found["prediction_id"].to_pylist() == rows["prediction_id"].to_pylist()


def test_a_day_is_complete_when_its_labels_are_due_and_in(stream: Stream, after: Callable[[int], datetime]) -> None:
    rows = stream(12)
    seen = unlabelled_after(rows, after(10))

    whole = complete_days(seen, after(10), 0.95)
    half = complete_days(seen, after(10) + timedelta(hours=12), 0.95)

    assert list(whole - day_of(rows).min()) == [0, 1, 2]
    assert list(half) == list(whole)


def test_a_day_whose_labels_did_not_come_is_not_judged(stream: Stream, after: Callable[[int], datetime]) -> None:
    rows = stream(3)
    frauds_only = pc.if_else(pc.equal(rows["is_fraud"], 1), rows["is_fraud"], pa.scalar(None, pa.int8()))
    rows = rows.set_column(rows.column_names.index("is_fraud"), "is_fraud", frauds_only)

    assert len(complete_days(rows, after(12), 0.95)) == 0
    part = stretch(rows, "1", complete=False, k=10, review_cost=5.0, resamples=20)
    assert part.figures == {}
    assert part.to_dict()["labelled_share"] < 0.1


def test_figures_come_with_intervals_that_hold_them(stream: Stream) -> None:
    part = stretch(stream(7), "1", complete=True, k=20, review_cost=5.0, resamples=60)

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
        estimate = expected(week, calibration, k=20, draws=40, seed=seed)["average_precision"]
        truth = stretch(week, "1", complete=True, k=20, review_cost=5.0, resamples=20).figures["average_precision"]
        covered += estimate.low <= truth.value <= estimate.high

    assert covered >= 15, f"{covered} of 20; 95 % intervals should miss about one"


def test_the_estimate_follows_an_overconfident_model_down(stream: Stream) -> None:
    honest, overconfident = (calibrate(*judge_rows(stream(7, truth=truth))) for truth in (1.0, 0.4))
    week = stream(3, first_day=7)

    a, b = (expected(week, known, k=20, draws=20)["precision"].value for known in (honest, overconfident))

    assert b < 0.6 * a


def test_the_estimate_needs_no_frauds_to_learn_from(stream: Stream) -> None:
    rows = stream(1)
    data, scores = judge_rows(rows)

    nothing = calibrate(data.where(np.zeros(len(data), bool)), scores[:0])

    assert isinstance(nothing, Calibration)
    assert nothing(np.array([0.2, 0.9])) == pytest.approx([0.2, 0.9])
