"""What test transactions looked like when they were scored, in a form that can be changed and scored again.

Features that follow from what is changed are computed by `fraud.features`, the code that serves.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fraud.features import CUSTOMER_FEATURES, FEATURE_NAMES, REQUEST_FEATURES, TERMINAL_FEATURES
from fraud.formulas import (
    NO_EVENT_DAYS,
    RISK_WINDOW_DAYS,
    TERMINAL_STATE_FIELDS,
    CustomerStates,
    customer_features,
    history_tensor,
    request_features,
    states_of,
    terminal_features,
)
from millrace.instants import DAY_US
from millrace.lake.training_set import TrainingSet

_TERMINAL: Final = slice(len(REQUEST_FEATURES) + len(CUSTOMER_FEATURES), len(FEATURE_NAMES))
_SINCE: Final = ("terminal_days_since_streak_start", "terminal_days_since_fraud")
_DATES: Final = "terminal_dates_since_streak_start"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What B transactions looked like when they were scored."""

    now_us: NDArray[np.int64]  # [B]
    amount_cents: NDArray[np.int64]  # [B]
    label: NDArray[np.bool_]  # [B]
    states: CustomerStates
    terminal: NDArray[np.float32]  # [B, len(TERMINAL_FEATURES)]

    def __len__(self) -> int:
        return len(self.now_us)

    @property
    def value(self) -> NDArray[np.int64]:
        """What a thief is after: the amount, in cents."""
        return self.amount_cents

    def where(self, mask: NDArray[np.bool_]) -> Inputs:
        """Only the rows of mask[B]."""
        states = CustomerStates(*(getattr(self.states, field.name)[mask] for field in fields(CustomerStates)))
        return Inputs(self.now_us[mask], self.amount_cents[mask], self.label[mask], states, self.terminal[mask])

    def with_amounts(self, cents: NDArray[np.int64]) -> Inputs:
        return replace(self, amount_cents=cents)

    def with_states(self, states: CustomerStates) -> Inputs:
        return replace(self, states=states)

    def without_terminals(self) -> Inputs:
        blank = terminal_features(self.now_us, np.zeros((len(self), len(TERMINAL_STATE_FIELDS)), np.int64))
        return replace(self, terminal=blank)

    def later(self, wait_us: int) -> Inputs:
        """The same transactions `wait_us` later, on a quiet card.

        What is counted at the terminal stays, since others go on paying there; what is dated there grows older.
        """
        now_us, terminal = self.now_us + wait_us, self.terminal.copy()
        dates = now_us // DAY_US - self.now_us // DAY_US
        for name, days in ((_SINCE[0], wait_us / DAY_US), (_SINCE[1], wait_us / DAY_US), (_DATES, dates)):
            column = TERMINAL_FEATURES.index(name)
            terminal[:, column] = np.minimum(terminal[:, column] + days, NO_EVENT_DAYS)
        return replace(self, now_us=now_us, terminal=terminal)

    def remembered(self) -> CustomerStates:
        """The states that these transactions leave behind: each at the end of its customer's history."""

        def appended(values: NDArray[Any], newest: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([values[:, 1:], newest[:, None].astype(values.dtype)], axis=1)

        risk = self.terminal[:, TERMINAL_FEATURES.index(f"terminal_risk_{RISK_WINDOW_DAYS}d")]

        return CustomerStates(
            appended(self.states.event_us, self.now_us),
            appended(self.states.amount_cents, self.amount_cents),
            appended(self.states.terminal_risk, risk),
            np.minimum(self.states.length + 1, self.states.event_us.shape[1]),
        )

    def tensors(self, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """features[B, F] and history[B, length, C], as the transformer would compute them."""
        request = request_features(self.now_us, self.amount_cents)
        customer = customer_features(self.now_us, self.amount_cents, self.states)
        features = np.concatenate([request, customer, self.terminal], axis=1)
        return features, history_tensor(self.now_us, self.states, length)


def inputs_of(data: TrainingSet, rows: NDArray[np.int64]) -> Inputs:
    """The unchanged inputs of rows[B] of a training set."""
    states = states_of(data.histories(rows, data.history_length))
    cents = data.remembered("amount_cents", rows)
    return Inputs(data.event_us[rows], cents, data.label[rows] == 1, states, data.features[rows][:, _TERMINAL])
