"""What the model must do whatever its figures: invariances, directions, minimum functionality."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS

AMOUNT = FEATURE_NAMES.index("amount")
PRESENT = HISTORY_CHANNELS.index("present")


def column(name: str) -> int:
    return FEATURE_NAMES.index(name)


def test_the_order_of_rows_in_a_batch_changes_nothing(trained) -> None:
    order = torch.randperm(len(trained.features), generator=torch.Generator().manual_seed(0))

    shuffled = trained.scores(trained.features[order], trained.history[order])

    np.testing.assert_allclose(shuffled, trained.scores()[order.numpy()], atol=1e-5)


def test_a_row_is_scored_alike_alone_and_among_others(trained) -> None:
    alone = np.concatenate([trained.scores(trained.features[i : i + 1], trained.history[i : i + 1]) for i in range(20)])

    np.testing.assert_allclose(alone, trained.scores()[:20], atol=1e-5)


def test_what_stands_in_padding_is_not_read(trained) -> None:
    noise = torch.rand(trained.history.shape, generator=torch.Generator().manual_seed(0)) * 1_000
    absent = trained.history[:, :, PRESENT] == 0
    changed = trained.history.clone()
    changed[absent] = noise[absent]
    changed[:, :, PRESENT] = trained.history[:, :, PRESENT]

    assert absent.any()
    np.testing.assert_allclose(trained.scores(history=changed), trained.scores(), atol=1e-6)


def test_where_padding_stands_changes_nothing(trained) -> None:
    padding = torch.zeros_like(trained.history[:, :5])

    for longer in ([padding, trained.history], [trained.history, padding]):
        np.testing.assert_allclose(trained.scores(history=torch.cat(longer, dim=1)), trained.scores(), atol=1e-5)


def test_a_customer_without_history_gets_a_score(trained) -> None:
    scores = trained.scores(history=torch.zeros_like(trained.history))

    assert np.isfinite(scores).all()
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("value", [1e9, -1e9, 0.0])
def test_wild_inputs_give_finite_scores(trained, value: float) -> None:
    features = torch.full_like(trained.features[:10], value)
    history = torch.full_like(trained.history[:10], value)
    history[:, :, PRESENT] = 1.0

    assert np.isfinite(trained.scores(features, history)).all()


def test_revealed_fraud_at_the_terminal_does_not_lower_the_score(trained) -> None:
    quiet = trained.features[:, column("terminal_fraud_streak")] == 0
    risky = trained.features[quiet].clone()
    for days in (1, 3, 7, 14, 30):
        labelled = risky[:, column(f"terminal_labelled_{days}d")].clamp(min=2.0)
        risky[:, column(f"terminal_labelled_{days}d")] = labelled
        risky[:, column(f"terminal_risk_{days}d")] = 1.0
    risky[:, column("terminal_fraud_streak")] = 6.0
    risky[:, column("terminal_days_since_streak_start")] = 11.0
    risky[:, column("terminal_days_since_fraud")] = 7.5
    risky[:, column("terminal_dates_since_streak_start")] = 11.0
    risky[:, column("terminal_streak_least_ratio")] = 0.9

    before = trained.scores(trained.features[quiet], trained.history[quiet])
    after = trained.scores(risky, trained.history[quiet])

    assert after.mean() > before.mean() + 0.2
    assert (after >= before - 1e-3).mean() > 0.95


def test_a_larger_amount_than_the_customer_ever_paid_does_not_lower_the_score(trained) -> None:
    five_times = trained.features.clone()
    amount = 5 * trained.features[:, column("customer_mean_amount")]
    usual = trained.features[:, column("customer_history_count")] > 10
    five_times[:, AMOUNT] = amount
    five_times[:, column("customer_amount_ratio")] = 5.0
    deviation = trained.features[:, column("customer_std_amount")].clamp(min=1.0)
    five_times[:, column("customer_amount_zscore")] = (
        amount - trained.features[:, column("customer_mean_amount")]
    ) / deviation

    assert trained.scores(five_times)[usual].mean() > trained.scores()[usual].mean()


def test_an_amount_over_220_is_scored_high(trained) -> None:
    """The simulator's sanity pattern: every such transaction is fraud."""
    features = trained.features.clone()
    mean = features[:, column("customer_mean_amount")].clamp(min=1.0)
    features[:, AMOUNT] = 260.0
    features[:, column("customer_amount_ratio")] = 260.0 / mean
    features[:, column("customer_amount_zscore")] = (260.0 - mean) / features[:, column("customer_std_amount")].clamp(
        1.0
    )

    scores = trained.scores(features)

    assert (scores > 0.5).mean() > 0.9
    assert np.median(scores) > np.quantile(trained.scores()[trained.label == 0], 0.99)


def test_frauds_are_ranked_above_genuine_rows(trained) -> None:
    scores, fraud = trained.scores(), trained.label == 1

    better = (scores[fraud][:, None] > scores[~fraud][None, :]).mean()

    assert better > 0.75
    assert scores[fraud].mean() > 5 * scores[~fraud].mean()
