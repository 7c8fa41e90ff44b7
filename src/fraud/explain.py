"""Why a transaction was flagged: how much the score falls when one group of inputs is replaced by nothing remarkable.

Occlusion with the model's own inputs as the neutral values: a customer without history, a terminal without history,
the customer's usual amount, noon of a weekday. `INPUTS` are those of a whole explanation, against reference
transactions. The variants go to the model as rows; nothing here scores.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.features import FEATURE_NAMES, TERMINAL_FEATURES
from fraud.online import CUSTOMERS, TERMINALS, model_inputs
from millrace.fields import Input
from millrace.inputs import Requests, States

GROUPS: Final = ("amount", "customer_history", "terminal_history", "time")
"""What a reason may name, in the order of the variants."""
MIN_EFFECT: Final = 0.01

INPUTS: Final = (
    Input("amount", shows="amount", fields={"amount": "amount"}),
    Input("time", shows="event_timestamp", features=("hour", "is_weekend", "is_night")),
    Input("customer_history", shows=CUSTOMERS, views=(CUSTOMERS,)),
    Input("terminal", shows="terminal", features=TERMINAL_FEATURES),
)
HISTORY: Final = {"amount_cents": ("amount", 100), "terminal_risk": ("terminal_risk", 1)}

_NOON_OF_A_WEEKDAY: Final = {"hour": 12.0, "is_weekend": 0.0, "is_night": 0.0}


def variants(
    requests: Requests, states: States, *, history_length: int, sequence_length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One transaction → `features[K, F]`, `history[K, L, C]` with one group replaced in each, K = len(GROUPS)."""
    many = requests.repeated(len(GROUPS))
    theirs = states.repeated(len(GROUPS))
    customer = states.recent[CUSTOMERS][0].before(int(requests.event_id[0]), int(requests.event_us[0]))
    amounts = many.values["amount"]
    if len(customer):
        amounts[GROUPS.index("amount")] = round(float(customer.values[0].mean()))
    customers = [customer] * len(GROUPS)
    customers[GROUPS.index("customer_history")] = customer.newest(0)
    terminals = theirs.refreshed[TERMINALS]
    terminals[GROUPS.index("terminal_history")] = 0

    features, history = model_inputs(
        many,
        States({CUSTOMERS: customers}, {TERMINALS: terminals}),
        history_length=history_length,
        sequence_length=sequence_length,
    )

    for name, value in _NOON_OF_A_WEEKDAY.items():
        features[GROUPS.index("time"), FEATURE_NAMES.index(name)] = value
    return features, history
