"""The figures that decide what is served."""

from __future__ import annotations

import numpy as np
import pytest

from components.optimise.measure import latency_us, ranking, review_threshold
from millrace.judge.ranking import Judged


def rows(card: list[int], day: list[int], label: list[int] | None = None) -> Judged:
    labels = np.array(label or [0] * len(card), bool)
    return Judged(np.array(card), np.array(day), labels, np.ones(len(card)), max(card) + 1)


def test_the_threshold_is_the_score_of_the_last_card_that_can_be_reviewed():
    scores = np.array([0.9, 0.8, 0.7, 0.1], np.float32)

    threshold = review_threshold(rows([0, 1, 2, 3], [0] * 4), scores, capacity=2, max_share=1.0)

    assert threshold.value == np.float32(0.8)
    assert threshold.units_per_day == 2


def test_a_card_counts_once_a_day_with_its_highest_score():
    scores = np.array([0.9, 0.8, 0.7, 0.1], np.float32)

    threshold = review_threshold(rows([0, 0, 1, 2], [0] * 4), scores, capacity=2, max_share=1.0)

    assert threshold.value == np.float32(0.7)


def test_the_threshold_is_the_median_over_days():
    scores = np.array([0.9, 0.5, 0.1], np.float32)

    threshold = review_threshold(rows([0, 0, 0], [0, 1, 2]), scores, capacity=1, max_share=1.0)

    assert threshold.value == np.float32(0.5)
    assert threshold.days == 3


def test_a_small_world_reviews_a_share_of_its_cards_and_says_so():
    scores = np.linspace(0, 1, 40, dtype=np.float32)

    threshold = review_threshold(rows(list(range(40)), [0] * 40), scores, capacity=100, max_share=0.05)

    assert threshold.units_per_day == 2
    assert threshold.scaled_down


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(1)
    card, day, scores = rng.integers(0, 20, 200), rng.integers(0, 4, 200), rng.random(200, dtype=np.float32)
    shuffled = rng.permutation(200)

    one = review_threshold(rows(list(card), list(day)), scores, 3, 1.0)
    other = review_threshold(rows(list(card[shuffled]), list(day[shuffled])), scores[shuffled], 3, 1.0)

    assert one == other


def test_ranking_without_a_fraud_is_not_measured():
    assert ranking(rows([0, 1], [0, 0]), np.array([0.1, 0.2], np.float32)) is None
    assert ranking(rows([0, 1], [0, 0], [0, 1]), np.array([0.1, 0.2], np.float32)) == pytest.approx(1.0)


def test_latency_is_measured_for_every_graph_and_batch_size_even_beyond_the_rows_there_are():
    inputs = np.zeros((3, 2), np.float32), np.zeros((3, 4, 1), np.float32)
    seen: list[int] = []

    def scorer(f: np.ndarray, h: np.ndarray) -> np.ndarray:
        seen.append(len(f))
        return f[:, 0]

    figures = latency_us({"a": scorer, "b": scorer}, inputs, (1, 8), repeats=2)

    assert seen == [1, 1, 1, 1, 8, 8, 8, 8]
    assert figures.keys() == {"a", "b"}
    assert all(value > 0 for sizes in figures.values() for value in sizes.values())
