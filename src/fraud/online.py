"""From an online-store answer to model inputs, and the state a scored transaction leaves behind.

The transformer and the skew check run this same code. An answer is what Feast's `get_online_features(...).to_dict()`
gives: a dict of equally long lists, in which an unknown entity is None. Nothing here reads a store or a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud import features as f
from millrace.errors import SchemaMismatch

Response = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class CustomerState:
    """The last transactions of one customer, oldest first in the order (event_us, transaction_id); immutable."""

    transaction_ids: NDArray[np.int64]  # [n]
    event_us: NDArray[np.int64]  # [n]
    amount_cents: NDArray[np.int64]  # [n]
    terminal_risk: NDArray[np.float32]  # [n]

    def __len__(self) -> int:
        return len(self.transaction_ids)

    def position(self, transaction_id: int, event_us: int) -> int:
        """How many entries come strictly before this transaction; those before itself when it is among them."""
        found = np.flatnonzero(self.transaction_ids == transaction_id)
        if found.size:
            return int(found[0])
        if not len(self) or event_us > self.event_us[-1]:  # nearly always
            return len(self)
        earlier = int(np.searchsorted(self.event_us, event_us, side="left"))
        tied = int(np.searchsorted(self.event_us, event_us, side="right"))
        return earlier + int(np.searchsorted(self.transaction_ids[earlier:tied], transaction_id))

    def before(self, transaction_id: int, event_us: int) -> CustomerState:
        """The part of the state that a transaction may be scored with: what came strictly before it."""
        end = self.position(transaction_id, event_us)
        return self if end == len(self) else self._map(lambda values: values[:end])

    def append(
        self, transaction_id: int, event_us: int, amount_cents: int, terminal_risk: float, history_length: int
    ) -> CustomerState:
        """The state with this transaction in its place, cut to the newest `history_length`.

        The same state when the transaction is in it already, so that scoring twice leaves one trace.
        """
        if transaction_id in self.transaction_ids:
            return self
        at = self.position(transaction_id, event_us)
        entry = (transaction_id, event_us, amount_cents, terminal_risk)
        arrays = zip(self.arrays(), entry, strict=True)
        return CustomerState(*(_inserted(values, at, value)[-history_length:] for values, value in arrays))

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The columns in the order of CUSTOMER_STATE_FIELDS."""
        return self.transaction_ids, self.event_us, self.amount_cents, self.terminal_risk

    def _map(self, change: Any) -> CustomerState:
        return CustomerState(*(change(values) for values in self.arrays()))


def _inserted(values: NDArray[Any], at: int, value: float) -> NDArray[Any]:
    """As np.insert, which is eight times as slow for a hundred values."""
    longer = np.empty(len(values) + 1, values.dtype)
    longer[:at], longer[at], longer[at + 1 :] = values[:at], value, values[at:]
    return longer


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DTYPES = (np.int64, np.int64, np.int64, np.float32)
EMPTY_STATE = CustomerState(
    np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
)
"""The state of a customer nobody has seen."""


def customer_states(response: Response) -> list[CustomerState]:
    """The B customers of an answer; an unknown one has the empty state."""
    columns = [_column(response, name) for name in f.CUSTOMER_STATE_FIELDS]
    return [
        EMPTY_STATE
        if row[0] is None
        else CustomerState(*(np.asarray(values, dtype) for values, dtype in zip(row, _DTYPES, strict=True)))
        for row in zip(*columns, strict=True)
    ]


def terminal_states(response: Response) -> NDArray[np.int64]:
    """The B terminals of an answer: `state[B, len(TERMINAL_STATE_FIELDS)]`; an unknown one is a row of zeros."""
    columns = [_column(response, name) for name in f.TERMINAL_STATE_FIELDS]
    return np.array([[value or 0 for value in column] for column in columns], np.int64).T


def padded(states: Sequence[CustomerState], history_length: int) -> f.CustomerStates:
    """B states side by side, padded on the left to `history_length`; longer ones lose their oldest entries."""
    shape = (len(states), history_length)
    event_us = np.full(shape, f.NEVER_US)
    amount_cents = np.zeros(shape, np.int64)
    terminal_risk = np.zeros(shape, np.float32)
    length = np.zeros(len(states), np.int64)
    for row, state in enumerate(states):
        if n := min(len(state), history_length):
            event_us[row, -n:] = state.event_us[-n:]
            amount_cents[row, -n:] = state.amount_cents[-n:]
            terminal_risk[row, -n:] = state.terminal_risk[-n:]
            length[row] = n
    return f.CustomerStates(event_us, amount_cents, terminal_risk, length)


def model_inputs(
    transaction_id: NDArray[np.int64],
    event_us: NDArray[np.int64],
    amount_cents: NDArray[np.int64],
    customers: Sequence[CustomerState],
    terminals: NDArray[np.int64],
    *,
    history_length: int,
    sequence_length: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """B requests with the states of their customers and terminals → `features[B, F]`, `history[B, L, C]`, float32.

    What a state holds at or after its request is left out. `history_length` is N, which the features see;
    `sequence_length` (≤ N) is L, which the model's sequence part reads.
    """
    requests = zip(customers, transaction_id.tolist(), event_us.tolist(), strict=True)
    states = padded([state.before(id_, now) for state, id_, now in requests], history_length)
    return (
        f.model_features(event_us, amount_cents, states, terminals),
        f.history_tensor(event_us, states, sequence_length),
    )


def push_columns(customers: Mapping[str, CustomerState]) -> dict[str, list[Any]]:
    """Columns of the frame that Feast's push source takes: one row per customer, dated by its newest transaction."""
    states = list(customers.values())
    return {
        "customer_id": list(customers),
        "event_timestamp": [_EPOCH + timedelta(microseconds=int(state.event_us[-1])) for state in states],
        **{name: [state.arrays()[index] for state in states] for index, name in enumerate(f.CUSTOMER_STATE_FIELDS)},
    }


def _column(response: Response, name: str) -> Sequence[Any]:
    try:
        return response[name]
    except KeyError:
        raise SchemaMismatch(
            f"the online answer has no column {name!r}, only {sorted(response)}. "
            f"Ask for the feature service {f.FEATURE_SERVICE!r}; when it lacks the column, materialise again."
        ) from None
