"""The formulas behind every feature, on one row or many: state in, model inputs out, in NumPy alone.

A state is what the online store holds for one entity; every function takes a batch of B states, and a server calls it
with B = 1. The batch path over whole days is `days.py`; a property test holds the two equal. Names and order
of what comes out are `features.py`'s. Nothing here reads a store or a clock.

Conventions. Times are integer microseconds since 1970 UTC (`*_us`), amounts integer cents, so that sums are exact.
A customer's history is what happened strictly before the transaction in the order (event_timestamp, transaction_id),
the last N of it. A window of w days holds the part of that history with `event_us > now_us - w days`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.features.histories import Histories
from millrace.instants import DAY_US, NEVER_US

CUSTOMER_WINDOWS_DAYS: Final = (1, 7, 30)
TERMINAL_VOLUME_WINDOWS_DAYS: Final = (1, 7, 30)
TERMINAL_LABEL_WINDOWS_DAYS: Final = (1, 3, 7, 14, 30)
RATIO_HISTORY: Final = 64
"""Past transactions that tell what is usual for a customer, where a fraud's amount is held against it."""
RISK_WINDOW_DAYS: Final = 30
"""Window of the terminal risk that a customer's history remembers for each transaction."""
NO_EVENT_DAYS: Final = 60.0
"""Stands for 'never, or longer ago than this' in features that measure time since an event; a ceiling, in days."""

CUSTOMER_STATE_FIELDS: Final = ("transaction_ids", "event_us", "amount_cents", "terminal_risk")
"""Array columns of the `customer_state` feature view, each of length ≤ N, oldest first."""
TERMINAL_STATE_FIELDS: Final = (
    *(f"count_{days}d" for days in TERMINAL_VOLUME_WINDOWS_DAYS),
    *(f"labelled_{days}d" for days in TERMINAL_LABEL_WINDOWS_DAYS),
    *(f"fraud_{days}d" for days in TERMINAL_LABEL_WINDOWS_DAYS),
    "fraud_streak",
    "streak_start_us",
    "last_fraud_us",
    "streak_least_ratio",
)
"""Integer columns of the `terminal_state` feature view, as of a refresh. `count_*`: transactions by event time.
`labelled_*`, `fraud_*`: labels that became known in the window before the refresh. `fraud_streak`: revealed frauds
since the last revealed genuine transaction, in order of revelation; `streak_start_us`: event time of the earliest of
them, which dates a terminal's compromise; `last_fraud_us`: event time of the latest revealed fraud; 0 if none.
`streak_least_ratio`: least `amount_ratio` of the streak's frauds. A fraud of an ordinary amount incriminates the
terminal; one of five times the customer's usual amount speaks against the customer; 0 if none."""

TYPICAL_WITHIN: Final = 2.5
"""Past amounts up to this many medians tell what is usual for a customer; larger ones may be somebody else's."""
NO_HISTORY_RATIO: Final = 1_000
MAX_RATIO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class CustomerStates:
    """Histories of B customers, padded on the left to N; `length[B]` counts the real entries."""

    event_us: NDArray[np.int64]  # [B, N]; padding is NEVER_US
    amount_cents: NDArray[np.int64]  # [B, N]; padding is 0
    terminal_risk: NDArray[np.float32]  # [B, N], in [0, 1]; padding is 0
    length: NDArray[np.int64]  # [B]


def states_of(past: Histories) -> CustomerStates:
    """The platform's histories in the words of these formulas; a risk that they do not remember is 0."""
    cents, risk = past.values["amount_cents"], past.values.get("terminal_risk")
    risk = np.zeros(cents.shape, np.float32) if risk is None else risk
    return CustomerStates(past.event_us, cents, risk, past.length)


@dataclass(frozen=True, slots=True)
class HistoryTotals:
    """What the customer features need to know of B histories; integers, so that every path gets the same ones.

    Empty histories and windows are zeros.
    """

    window_count: NDArray[np.int64]  # [B, len(CUSTOMER_WINDOWS_DAYS)]
    window_cents: NDArray[np.int64]  # [B, len(CUSTOMER_WINDOWS_DAYS)]
    count: NDArray[np.int64]  # [B]
    cents: NDArray[np.int64]  # [B]
    max_cents: NDArray[np.int64]  # [B]
    variance: NDArray[np.float64]  # [B], of the amounts around their mean, in cents²
    last_us: NDArray[np.int64]  # [B], time of the newest transaction


def history_totals(now_us: NDArray[np.int64], states: CustomerStates) -> HistoryTotals:
    """[B] times of the new transactions with their customers' states → totals; the batch path gets them from SQL."""
    count = states.length
    cents = states.amount_cents
    total = cents.sum(axis=1)
    starts = now_us[:, None] - np.array(CUSTOMER_WINDOWS_DAYS) * DAY_US
    inside = states.event_us[:, :, None] > starts[:, None, :]
    deviation = (cents - (total / np.maximum(count, 1))[:, None]) * (states.event_us != NEVER_US)

    return HistoryTotals(
        window_count=inside.sum(axis=1),
        window_cents=np.einsum("bn,bnw->bw", cents, inside),
        count=count,
        cents=total,
        max_cents=cents.max(axis=1),
        variance=(deviation * deviation).sum(axis=1) / np.maximum(count, 1),
        last_us=np.where(count > 0, states.event_us[:, -1], 0),
    )


def amount_ratio(amount_cents: NDArray[np.int64], states: CustomerStates) -> NDArray[np.int64]:
    """[B] amounts with their customers' states → [B] amount over what is usual for the customer, per mille.

    Usual is the mean of the past amounts within TYPICAL_WITHIN medians. 1000 for a customer without history.
    """
    known = states.event_us != NEVER_US
    count = states.length

    ordered = np.sort(np.where(known, states.amount_cents, np.iinfo(np.int64).max // 8), axis=1)
    middle = np.stack([np.maximum(count - 1, 0) // 2, np.minimum(count // 2, known.shape[1] - 1)], axis=1)
    twice_median = np.take_along_axis(ordered, middle, axis=1).sum(axis=1)
    typical = known & (2 * states.amount_cents <= TYPICAL_WITHIN * twice_median[:, None])
    cents = np.where(typical, states.amount_cents, 0).sum(axis=1)

    ratio = amount_cents * 1000.0 * typical.sum(axis=1) / np.maximum(cents, 1)
    return np.where(count > 0, np.minimum(ratio, MAX_RATIO), NO_HISTORY_RATIO).astype(np.int64)


def customer_features(
    now_us: NDArray[np.int64], amount_cents: NDArray[np.int64], states: CustomerStates
) -> NDArray[np.float32]:
    """[B] times and amounts of the new transactions with their customers' states → [B, len(CUSTOMER_FEATURES)] float32.

    Amounts are in currency units; means are 0 and the ratio 1 and the z-score 0 for a customer without history.
    """
    return customer_features_of(now_us, amount_cents, history_totals(now_us, states))


def customer_features_of(
    now_us: NDArray[np.int64], amount_cents: NDArray[np.int64], totals: HistoryTotals
) -> NDArray[np.float32]:
    """The formulas behind `customer_features`: the batch path enters here with totals of its own."""
    amount = amount_cents / 100.0
    window_mean = totals.window_cents / np.maximum(totals.window_count, 1) / 100.0
    mean = totals.cents / np.maximum(totals.count, 1) / 100.0
    std = np.sqrt(totals.variance) / 100.0

    known = totals.count > 0
    ratio = np.where(known, amount / np.maximum(mean, 0.01), 1.0)
    zscore = np.where(known, (amount - mean) / np.maximum(std, 1.0), 0.0)
    since = np.where(known, np.minimum((now_us - totals.last_us) / DAY_US, NO_EVENT_DAYS), NO_EVENT_DAYS)
    whole = (totals.count, mean, std, totals.max_cents / 100.0, ratio, zscore, since)
    return _columns(totals.window_count, window_mean, *whole)


def terminal_features(now_us: NDArray[np.int64], state: NDArray[np.int64]) -> NDArray[np.float32]:
    """[B] times and `state[B, len(TERMINAL_STATE_FIELDS)]` → [B, len(TERMINAL_FEATURES)] float32.

    A terminal without state is a row of zeros. Risk is revealed frauds over revealed labels of the
    window, 0 for no labels.
    """
    volumes = len(TERMINAL_VOLUME_WINDOWS_DAYS)
    windows = len(TERMINAL_LABEL_WINDOWS_DAYS)
    labelled = state[:, volumes : volumes + windows]
    fraud = state[:, volumes + windows : volumes + 2 * windows]
    streak = state[:, -4]
    event_us = state[:, -3:-1]
    least_ratio = state[:, -1]

    never = event_us <= 0
    since = np.where(never, NO_EVENT_DAYS, np.minimum((now_us[:, None] - event_us) / DAY_US, NO_EVENT_DAYS))
    dates = np.minimum(now_us // DAY_US - event_us[:, 0] // DAY_US, NO_EVENT_DAYS)
    dates = np.where(never[:, 0], NO_EVENT_DAYS, dates)
    risk = fraud / np.maximum(labelled, 1)
    return _columns(state[:, :volumes], labelled, risk, streak, since, dates, least_ratio / 1000.0)


def terminal_risk(state: NDArray[np.int64]) -> NDArray[np.float32]:
    """`state[B, …]` of terminals → [B] float32 in [0, 1]: the risk a customer's history will remember."""
    labelled = state[:, TERMINAL_STATE_FIELDS.index(f"labelled_{RISK_WINDOW_DAYS}d")]
    fraud = state[:, TERMINAL_STATE_FIELDS.index(f"fraud_{RISK_WINDOW_DAYS}d")]
    return (fraud / np.maximum(labelled, 1)).astype(np.float32)


def request_features(now_us: NDArray[np.int64], amount_cents: NDArray[np.int64]) -> NDArray[np.float32]:
    """[B] → [B, len(REQUEST_FEATURES)] float32.

    Amount in currency units, hour in [0, 24), weekend and night (hour < 7) as 0/1.
    """
    hour = (now_us % DAY_US) / 3_600_000_000
    weekday = (now_us // DAY_US + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    return _columns(amount_cents / 100.0, hour, weekday >= 5, hour < 7)


def history_tensor(now_us: NDArray[np.int64], states: CustomerStates, length: int) -> NDArray[np.float32]:
    """The last `length` (≤ N) transactions of each state: `history[B, length, C]` float32, see HISTORY_CHANNELS."""
    event_us = states.event_us[:, -length:]
    present = event_us != NEVER_US
    age = np.where(present, (now_us[:, None] - event_us) / DAY_US, 0.0)
    amount = states.amount_cents[:, -length:] / 100.0
    return np.stack([amount, age, states.terminal_risk[:, -length:], present], axis=2).astype(np.float32)


def model_features(
    now_us: NDArray[np.int64], amount_cents: NDArray[np.int64], customers: CustomerStates, terminals: NDArray[np.int64]
) -> NDArray[np.float32]:
    """All scalar inputs: `features[B, F]` float32 in the order of FEATURE_NAMES."""
    return np.concatenate(
        [
            request_features(now_us, amount_cents),
            customer_features(now_us, amount_cents, customers),
            terminal_features(now_us, terminals),
        ],
        axis=1,
    )


def _columns(*parts: NDArray[Any]) -> NDArray[np.float32]:
    """[B] columns and [B, K] blocks → [B, all of them] float32, in order."""
    blocks = [part if part.ndim == 2 else part[:, None] for part in parts]
    out = np.empty((len(blocks[0]), sum(block.shape[1] for block in blocks)), np.float32)
    return np.concatenate(blocks, axis=1, out=out, casting="unsafe")
