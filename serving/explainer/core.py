"""Why a transaction got its score: Shapley values of four inputs against reference transactions; no I/O.

An input that a coalition lacks is taken from the background: amount, time and terminal from rows of the model's
reference window, the customer's history from a customer nobody knows. Whatever follows from several inputs (the amount
against the customer's usual one) is computed again, so that every row the model sees is one that could be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fraud.features import FEATURE_NAMES, TERMINAL_FEATURES
from fraud.online import EMPTY_STATE, CustomerState, model_inputs

INPUTS: Final = ("amount", "time", "customer_history", "terminal")
"""The players, in the order of a coalition's columns."""
BACKGROUND_ROWS: Final = 32
TIME_FEATURES: Final = ("hour", "is_weekend", "is_night")
_AMOUNT, _TIME, _CUSTOMER, _TERMINAL = range(4)
_TIME_COLUMNS: Final = [FEATURE_NAMES.index(name) for name in TIME_FEATURES]
_TERMINAL_COLUMNS: Final = [FEATURE_NAMES.index(name) for name in TERMINAL_FEATURES]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Score = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""features[B, F], history[B, L, C] → scores[B]."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is explained: a checked request with the states it is scored with."""

    transaction_id: int
    event_us: int
    amount_cents: int
    terminal_id: str
    customer: CustomerState
    """What came strictly before the transaction."""
    terminal: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Background:
    """K reference transactions, as `features[K, F]`."""

    features: NDArray[np.float32]

    @classmethod
    def of(cls, columns: Mapping[str, NDArray[np.float32]], rows: int = BACKGROUND_ROWS) -> Background:
        """Rows spread evenly over the reference window in the order of its scores: calm and suspicious ones alike."""
        order = np.argsort(columns["score"], kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(int)]
        return cls(np.stack([columns[name][chosen] for name in FEATURE_NAMES], axis=1).astype(np.float32))

    @property
    def amount_cents(self) -> NDArray[np.int64]:
        cents: NDArray[np.int64] = np.rint(self.features[:, FEATURE_NAMES.index("amount")] * 100.0).astype(np.int64)
        return cents


def value_function(
    transaction: Transaction, background: Background, score: Score, history_length: int, sequence_length: int
) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """coalitions[M, 4] (1: the transaction's own input) → mean score over the background, [M]."""

    def value(coalitions: NDArray[Any]) -> NDArray[np.float64]:
        blocks = [
            coalition_inputs(transaction, background, coalition.astype(bool), history_length, sequence_length)
            for coalition in np.atleast_2d(coalitions)
        ]
        scores = score(np.concatenate([block[0] for block in blocks]), np.concatenate([block[1] for block in blocks]))
        means: NDArray[np.float64] = scores.astype(np.float64).reshape(len(blocks), -1).mean(axis=1)
        return means

    return value


def coalition_inputs(
    transaction: Transaction,
    background: Background,
    own: NDArray[np.bool_],
    history_length: int,
    sequence_length: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The K background rows with the transaction's own inputs put in where `own[4]` says so."""
    rows = len(background.features)
    amounts = np.full(rows, transaction.amount_cents) if own[_AMOUNT] else background.amount_cents
    features, history = model_inputs(
        np.full(rows, transaction.transaction_id),
        np.full(rows, transaction.event_us),
        amounts,
        [transaction.customer if own[_CUSTOMER] else EMPTY_STATE] * rows,
        np.tile(transaction.terminal, (rows, 1)),
        history_length=history_length,
        sequence_length=sequence_length,
    )
    for player, columns in ((_TIME, _TIME_COLUMNS), (_TERMINAL, _TERMINAL_COLUMNS)):
        if not own[player]:
            features[:, columns] = background.features[:, columns]
    return features, history


def attributions(values: NDArray[np.float64], transaction: Transaction) -> list[dict[str, Any]]:
    """The four inputs with what each adds to the score, strongest first, and what it was."""
    was: dict[str, Any] = {
        "amount": transaction.amount_cents / 100,
        "time": _iso(transaction.event_us),
        "customer_history": f"{len(transaction.customer)} transactions before this one",
        "terminal": transaction.terminal_id,
    }
    rows = [
        {"input": name, "value": was[name], "effect": float(effect)}
        for name, effect in zip(INPUTS, values, strict=True)
    ]
    return sorted(rows, key=lambda row: -abs(row["effect"]))


def history_of(transaction: Transaction) -> list[dict[str, Any]]:
    """What the model saw of the customer, oldest first, as it was before the transaction."""
    ids, times, cents, risks = (array.tolist() for array in transaction.customer.arrays())
    return [
        {"transaction_id": id_, "event_timestamp": _iso(us), "amount": amount / 100, "terminal_risk": risk}
        for id_, us, amount, risk in zip(ids, times, cents, risks, strict=True)
    ]


def _iso(event_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=event_us)).isoformat().replace("+00:00", "Z")
