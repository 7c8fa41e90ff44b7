"""Thieves who know that they are watched: they split an amount, or wait. Frauds in, what is paid in their place out.

How much gets past the model is counted by `components/evaluate/classes/attacks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from fraud.whatif import Inputs
from millrace.instants import DAY_US

PARTS: Final = 4
PAUSE_US: Final = 600_000_000
"""Between the parts of a split amount: ten minutes."""


def split_in_four(fraud: Inputs) -> Iterator[Inputs]:
    """Four payments of a quarter each, ten minutes apart, at the same terminal."""
    return _split(fraud, PAUSE_US)


def split_over_four_days(fraud: Inputs) -> Iterator[Inputs]:
    """A quarter a day."""
    return _split(fraud, DAY_US)


def waits_a_week(fraud: Inputs) -> Iterator[Inputs]:
    """The card lies still for seven days first."""
    yield fraud.later(7 * DAY_US)


def waits_a_month(fraud: Inputs) -> Iterator[Inputs]:
    """The card lies still for thirty days first: its windows are empty."""
    yield fraud.later(30 * DAY_US)


ATTACKS: Final[Mapping[str, Callable[[Inputs], Iterator[Inputs]]]] = {
    attack.__name__: attack for attack in (split_in_four, split_over_four_days, waits_a_week, waits_a_month)
}


def _split(fraud: Inputs, pause_us: int) -> Iterator[Inputs]:
    part = fraud.with_amounts(fraud.amount_cents // PARTS)
    rest = fraud.amount_cents - part.amount_cents * (PARTS - 1)  # no cent is left behind
    for number in range(PARTS):
        payment = part if number < PARTS - 1 else part.with_amounts(rest)
        yield payment
        part = payment.with_states(payment.remembered()).later(pause_us)
