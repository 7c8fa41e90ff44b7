"""Why a transaction was flagged: how much the score falls when one group of inputs is replaced by nothing remarkable.

Occlusion with the model's own inputs as the neutral values: a customer without history, a terminal without history,
the customer's usual amount, noon of a weekday. The variants go to the model as rows; nothing here scores.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fraud.features import FEATURE_NAMES
from fraud.online import EMPTY_STATE, CustomerState, model_inputs

GROUPS: Final = ("amount", "customer_history", "terminal_history", "time")
"""What a reason may name, in the order of the variants."""
MIN_EFFECT: Final = 0.01
"""A group that moves the score by less is no reason."""
MAX_REASONS: Final = 3

_NOON_OF_A_WEEKDAY: Final = {"hour": 12.0, "is_weekend": 0.0, "is_night": 0.0}


def variants(
    transaction_id: int,
    event_us: int,
    amount_cents: int,
    customer: CustomerState,
    terminal: NDArray[np.int64],
    *,
    history_length: int,
    sequence_length: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One transaction → `features[K, F]`, `history[K, L, C]` with one group replaced in each, K = len(GROUPS)."""
    before = customer.before(transaction_id, event_us)
    usual = round(float(before.amount_cents.mean())) if len(before) else amount_cents
    k = len(GROUPS)
    amounts = np.array([usual, *[amount_cents] * (k - 1)], np.int64)
    customers = [before, EMPTY_STATE, before, before]
    terminals = np.tile(terminal, (k, 1))
    terminals[GROUPS.index("terminal_history")] = 0
    features, history = model_inputs(
        np.full(k, transaction_id),
        np.full(k, event_us),
        amounts,
        customers,
        terminals,
        history_length=history_length,
        sequence_length=sequence_length,
    )
    for name, value in _NOON_OF_A_WEEKDAY.items():
        features[GROUPS.index("time"), FEATURE_NAMES.index(name)] = value
    return features, history


def reasons(score: float, variant_scores: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The groups whose replacement lowers the score, strongest first: `{"input": group, "effect": fall in score}`."""
    effects = sorted(zip(score - variant_scores.astype(float), GROUPS, strict=True), reverse=True)
    return [
        {"input": group, "effect": round(float(effect), 4)}
        for effect, group in effects[:MAX_REASONS]
        if effect >= MIN_EFFECT
    ]
