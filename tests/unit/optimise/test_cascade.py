"""Which share of rows may stop at a cheap model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.optimise.cascade import CascadeConfig, choose_band
from millrace.judge.ranking import Judged

ROWS = 2000
CONFIG = CascadeConfig(resamples=20)


def rows(frauds: int) -> Judged:
    """As many cards as rows; the last ones are fraud."""
    label = np.arange(ROWS) >= ROWS - frauds
    return Judged(np.arange(ROWS), np.zeros(ROWS, np.int64), label, np.ones(ROWS), ROWS)


def scores(seed: int = 0) -> np.ndarray:
    """Rising, so that fraud is at the top, with some noise."""
    noise = np.random.default_rng(seed).normal(0, 0.01, ROWS)
    return (1 / (1 + np.exp(-(np.linspace(-10, 1, ROWS) + noise)))).astype(np.float32)


def test_a_cheap_model_that_ranks_alike_saves_the_largest_share():
    band = choose_band(rows(40), scores(1), scores(2), threshold=0.5, config=CONFIG)

    assert band.cascade is not None
    assert band.tried[0]["saved_share"] == pytest.approx(0.9, abs=0.01)
    assert band.tried[0]["ap_loss_high"] <= CONFIG.max_ap_loss
    assert band.to_dict()["why_not"] is None


def test_a_cheap_model_that_hides_fraud_is_not_put_first():
    band = choose_band(rows(40), scores()[::-1].copy(), scores(), threshold=0.5, config=CONFIG)

    assert band.cascade is None
    assert len(band.tried) == len(CONFIG.shares)
    assert all(found["ap_loss"] > CONFIG.max_ap_loss for found in band.tried)
    assert "no share" in band.to_dict()["why_not"]


def test_a_cheap_model_never_decides_for_a_review():
    threshold = float(np.quantile(scores(), 0.75))

    band = choose_band(rows(40), scores(), scores(), threshold, CONFIG)

    assert band.cascade is not None
    assert band.cascade.lower <= threshold
    assert band.cascade.upper == 1.0


def test_a_cheap_model_that_says_the_same_of_most_rows_saves_none_of_them():
    flat = np.where(np.arange(ROWS) < 1990, 0.001, 0.9).astype(np.float32)

    assert choose_band(rows(10), flat, scores(), threshold=0.5, config=CONFIG).cascade is None


def test_without_fraud_to_judge_by_there_is_no_cascade():
    band = choose_band(rows(0), scores(), scores(), threshold=0.5, config=CONFIG)

    assert band.cascade is None
    assert band.tried == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0, 6), frauds=st.integers(1, 60))
def test_a_band_that_is_given_keeps_both_bounds(seed: int, noise: float, frauds: int):
    cheap = scores() * 0.5 + np.random.default_rng(seed).uniform(0, 0.01 * noise, ROWS).astype(np.float32)

    band = choose_band(rows(frauds), cheap, scores(), threshold=0.5, config=CONFIG)

    if band.cascade is not None:
        assert band.cascade.is_sure(cheap).mean() >= CONFIG.min_saved_share
        assert band.tried[-1]["ap_loss_high"] <= CONFIG.max_ap_loss
