"""Bad days, played on test rows: empty stores, shifted amounts, stale state, frauds that dodge a threshold.

Model inputs in, changed model inputs out. An attacker who knows the model is in `adversary.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.formulas import CustomerStates
from fraud.whatif import Inputs
from millrace.instants import DAY_US, NEVER_US

THRESHOLD_CENTS: Final = 220_00
"""Above this amount the recipe calls every transaction a fraud; below it a fraudster is not seen by that rule."""


def no_customer_state(inputs: Inputs) -> Inputs:
    """The online store answers, and knows no customer."""
    shape = inputs.states.event_us.shape
    blank = CustomerStates(
        np.full(shape, NEVER_US),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.float32),
        np.zeros(len(inputs), np.int64),
    )
    return inputs.with_states(blank)


def no_terminal_state(inputs: Inputs) -> Inputs:
    return inputs.without_terminals()


def no_state(inputs: Inputs) -> Inputs:
    """The online store is down: the transformer answers from defaults."""
    return no_customer_state(inputs).without_terminals()


def amounts_up_10_percent(inputs: Inputs) -> Inputs:
    return inputs.with_amounts(np.rint(inputs.amount_cents * 1.1).astype(np.int64))


def amounts_up_30_percent(inputs: Inputs) -> Inputs:
    return inputs.with_amounts(np.rint(inputs.amount_cents * 1.3).astype(np.int64))


def customer_state_a_day_old(inputs: Inputs) -> Inputs:
    """The push path stood still for a day: the last day of every history is not there."""
    states = inputs.states
    width = states.event_us.shape[1]

    recent = states.event_us > (inputs.now_us - DAY_US)[:, None]
    lost = recent.sum(axis=1)
    source = np.arange(width)[None, :] - lost[:, None]  # the newest that is left moves to the right end
    absent = source < 0
    source = np.maximum(source, 0)

    def moved(values: NDArray[np.generic], blank: float) -> NDArray[np.generic]:
        return np.where(absent, np.array(blank, values.dtype), np.take_along_axis(values, source, axis=1))

    return inputs.with_states(
        CustomerStates(
            moved(states.event_us, NEVER_US),  # type: ignore[arg-type]
            moved(states.amount_cents, 0),  # type: ignore[arg-type]
            moved(states.terminal_risk, 0),  # type: ignore[arg-type]
            np.maximum(states.length - lost, 0),
        )
    )


def amounts_just_below_220(inputs: Inputs) -> Inputs:
    """Fraudsters learn the threshold: every fraud above it is made for one cent less."""
    evading = inputs.label & (inputs.amount_cents > THRESHOLD_CENTS)
    return inputs.with_amounts(np.where(evading, THRESHOLD_CENTS - 1, inputs.amount_cents))


def amounts_jittered_1_percent(inputs: Inputs) -> Inputs:
    """A change too small to mean anything: one percent up and down in turns."""
    factor = np.where(np.arange(len(inputs)) % 2 == 0, 0.99, 1.01)
    return inputs.with_amounts(np.rint(inputs.amount_cents * factor).astype(np.int64))


STRESSES: Final[Mapping[str, Callable[[Inputs], Inputs]]] = {
    stress.__name__: stress
    for stress in (
        no_customer_state,
        no_terminal_state,
        no_state,
        amounts_up_10_percent,
        amounts_up_30_percent,
        customer_state_a_day_old,
        amounts_just_below_220,
        amounts_jittered_1_percent,
    )
}
