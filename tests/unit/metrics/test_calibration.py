"""Scores as probabilities."""

import numpy as np
import pytest

from millrace.judge.calibration import brier, brier_skill, calibration_error, reliability


def test_scores_that_are_true_shares_are_calibrated(simple):
    rows = simple([1, 0, 0, 0, 1, 1, 1, 0])
    scores = np.array([0.25] * 4 + [0.75] * 4)

    assert calibration_error(rows, scores).item() == pytest.approx(0)
    assert brier(rows, scores).item() == pytest.approx(0.25 * 0.75)


def test_a_constant_score_is_off_by_its_distance_from_the_fraud_share(simple):
    rows = simple([1, 0, 0, 0])

    assert calibration_error(rows, np.full(4, 0.95)).item() == pytest.approx(0.7)


def test_always_answering_the_fraud_share_has_no_skill_and_knowing_has_all(simple):
    rows = simple([1, 0, 0, 0])

    assert brier_skill(rows, np.full(4, 0.25)).item() == pytest.approx(0)
    assert brier_skill(rows, rows.label.astype(float)).item() == 1.0
    assert brier_skill(rows, 1.0 - rows.label).item() < 0


def test_weights_act_as_repeated_cards(random_week):
    rows, scores = random_week
    weights = np.zeros((1, rows.units))
    weights[0, :100] = 2
    kept = rows.where(rows.unit < 100)

    assert brier(rows, scores, weights).item() == pytest.approx(brier(kept, scores[rows.unit < 100]).item())
    assert calibration_error(rows, scores, weights).item() == pytest.approx(
        calibration_error(kept, scores[rows.unit < 100]).item()
    )


def test_the_reliability_curve_covers_every_row_up_to_a_score_of_one(simple):
    curve = reliability(simple([1, 0, 1]), np.array([1.0, 0.0, 0.95]))

    assert [point["rows"] for point in curve] == [1, 2]
    assert curve[-1]["positive_share"] == 1.0


def test_no_rows_have_no_calibration(simple):
    assert np.isnan(calibration_error(simple([]), np.empty(0)).item())
    assert np.isnan(brier_skill(simple([]), np.empty(0)).item())
