"""Model inputs from a request and the states of its customer and terminal, and what the customer's state remembers.

The transformer, the explainer, the skew check and the edge package run this same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud import formulas as f
from millrace.inputs import RecentEvents, Requests, States
from millrace.instants import NEVER_US

CUSTOMERS, TERMINALS = "customer_state", "terminal_state"
"""Views."""
_CENTS, _RISK = range(2)
"""Places in the values that a customer's state remembers."""


def model_inputs(
    requests: Requests, states: States, *, history_length: int, sequence_length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """B requests with the states of their customers and terminals → `features[B, F]`, `history[B, L, C]`, float32."""
    event_us, cents = requests.event_us, requests.values["amount"]
    rows = zip(states.recent[CUSTOMERS], requests.event_id.tolist(), event_us.tolist(), strict=True)
    customers = padded([state.before(event_id, now_us) for state, event_id, now_us in rows], history_length)
    return (
        f.model_features(event_us, cents, customers, states.refreshed[TERMINALS]),
        f.history_tensor(event_us, customers, sequence_length),
    )


def remembered(requests: Requests, states: States) -> Sequence[tuple[Any, ...]]:
    """[B] amounts in cents with the risk of their terminals."""
    risks = f.terminal_risk(states.refreshed[TERMINALS])
    return list(zip(requests.values["amount"].tolist(), risks.tolist(), strict=True))


def padded(states: Sequence[RecentEvents], history_length: int) -> f.CustomerStates:
    """B states side by side, padded on the left to `history_length`; longer ones lose their oldest entries."""
    shape = (len(states), history_length)
    event_us = np.full(shape, NEVER_US)
    amount_cents = np.zeros(shape, np.int64)
    terminal_risk = np.zeros(shape, np.float32)
    length = np.zeros(len(states), np.int64)

    for row, state in enumerate(states):
        n = min(len(state), history_length)
        if n:
            event_us[row, -n:] = state.event_us[-n:]
            amount_cents[row, -n:] = state.values[_CENTS][-n:]
            terminal_risk[row, -n:] = state.values[_RISK][-n:]
            length[row] = n

    return f.CustomerStates(event_us, amount_cents, terminal_risk, length)
