"""Intervals, and what reviewing cards is worth."""

import time

import numpy as np
import pytest

from millrace.errors import InvalidInput
from millrace.judge.bootstrap import difference, interval, unit_weights, with_intervals
from millrace.judge.ranking import average_precision, cost_ratio, review


def test_an_interval_holds_its_figure(random_week):
    rows, scores = random_week

    figures = with_intervals(rows, scores, unit_weights(rows, 200), k=10, review_cost=5.0)

    for name, figure in figures.items():
        assert figure.low < figure.value < figure.high, name


def test_a_model_does_not_differ_from_itself(random_week):
    rows, scores = random_week

    result = difference(rows, scores, scores, unit_weights(rows, 50), average_precision)

    assert (result.value, result.low, result.high) == (0, 0, 0)


def test_a_clear_difference_has_an_interval_beyond_zero(random_week):
    rows, scores = random_week
    noise = np.random.default_rng(5).random(len(scores))

    assert difference(rows, scores, noise, unit_weights(rows, 100), average_precision).low > 0
    assert difference(rows, noise, scores, unit_weights(rows, 100), average_precision).high < 0


def test_the_same_seed_draws_the_same_cards(random_week):
    rows, _ = random_week

    assert (unit_weights(rows, 3, seed=4) == unit_weights(rows, 3, seed=4)).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """AUC of N(1,1) against N(0,1) is Φ(1/√2) = .760; 95 % intervals over clustered rows should hold it."""
    from millrace.judge.ranking import Judged, roc_auc

    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        card = np.repeat(np.arange(200), 5)
        label = np.repeat(rng.random(200) < 0.3, 5)
        rows = Judged(card, np.zeros(1000, np.int64), label, np.ones(1000), 200)
        # Half of the variance belongs to the card: rows are not independent.
        scores = label + np.repeat(rng.normal(size=200), 5) * 0.5**0.5 + rng.normal(size=1000) * 0.5**0.5
        found = interval(roc_auc(rows, scores).item(), roc_auc(rows, scores, unit_weights(rows, 100)))
        held += found.low <= 0.7602 <= found.high

    assert held >= 50


def test_a_figure_that_does_not_exist_has_no_interval(simple):
    rows = simple([0, 0, 0])

    figures = with_intervals(rows, np.array([0.1, 0.2, 0.3]), unit_weights(rows, 10), k=1, review_cost=1.0)

    assert np.isnan([figures["auc_roc"].value, figures["auc_roc"].low, figures["cost_ratio"].high]).all()


def test_money_is_counted_as_caught_from_the_day_a_card_is_caught(simple):
    # Card 0: 10 caught on day 0, 20 prevented on day 1. Card 1: 5 missed on day 0 behind it, 7 caught on day 1.
    rows = simple([1, 1, 1, 1], cards=[0, 0, 1, 1], days=[0, 1, 0, 1], amounts=[10, 20, 5, 7])
    scores = np.array([0.9, 0.9, 0.5, 0.5])

    outcome = review(rows, scores, k=1)

    assert (outcome.caught_value.item(), outcome.missed_value.item(), outcome.reviews.item()) == (37, 5, 2)
    assert cost_ratio(outcome, review_cost=3.0).item() == pytest.approx((5 + 6) / 42)


def test_a_card_drawn_twice_takes_two_places_of_the_review(simple):
    rows = simple([1, 1], amounts=[10, 4])

    outcome = review(rows, np.array([0.9, 0.1]), k=2, weights=np.array([[2.0, 1.0], [1.0, 1.0], [3.0, 0.0]]))

    assert outcome.unit_precision.tolist() == [1.0, 1.0, 1.0]
    assert outcome.missed_value.tolist() == [4.0, 0.0, 10.0]


def test_a_review_of_no_cards_is_refused(simple):
    with pytest.raises(InvalidInput, match="k is 0"):
        review(simple([1]), np.array([0.5]), k=0)


def test_two_hundred_resamples_of_a_full_test_week_are_quick():
    from millrace.judge.ranking import Judged

    rng = np.random.default_rng(0)
    n = 60_000
    rows = Judged(rng.integers(0, 4500, n), rng.integers(0, 7, n), rng.random(n) < 0.007, rng.random(n) * 100, 4500)
    start = time.process_time()

    with_intervals(rows, rng.random(n), unit_weights(rows, 200), k=100, review_cost=5.0)

    assert time.process_time() - start < 3
