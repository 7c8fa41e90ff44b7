"""Thieves who know that they are watched: they split an amount, or wait. Frauds in, the money that gets through out.

An attack is what is done in place of one fraud: payments one after the other, until one of them is flagged and the
card is blocked. Nothing but the model's decision threshold stands in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.evaluate.inputs import Inputs
from fraud.features import DAY_US
from millrace.registry.model_artifact import ModelArtifact

PARTS: Final = 4
PAUSE_US: Final = 600_000_000
"""Between the parts of a split amount: ten minutes."""
AS_IT_WAS: Final = "as_it_was"

Score = Callable[[Inputs], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class AttackFigures:
    """What an attack is worth to the attacker."""

    passed: float
    """Share of the frauds' money that gets through, in [0, 1]."""
    gained: float
    """The same, less what gets through without the attack: the loss to it."""
    flagged: float
    """Share of the frauds of which at least one payment is flagged."""


def as_it_was(fraud: Inputs) -> Iterator[Inputs]:
    """The frauds of the test week, unchanged."""
    yield fraud


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
    attack.__name__: attack for attack in (as_it_was, split_in_four, split_over_four_days, waits_a_week, waits_a_month)
}


def measure_attacks(model: ModelArtifact, inputs: Inputs) -> dict[str, AttackFigures]:
    """Every attack in place of every fraud among `inputs`; NaN where there is no fraud."""
    fraud = inputs.where(inputs.label)
    length = model.spec.sequence_length

    def score(payments: Inputs) -> NDArray[np.float32]:
        return model.score(*payments.tensors(length))

    outcomes = {name: outcome(attack(fraud), score, model.decision_threshold) for name, attack in ATTACKS.items()}
    at_stake = fraud.amount_cents.sum() or np.nan
    usual = outcomes[AS_IT_WAS][0].sum() / at_stake
    return {
        name: AttackFigures(
            passed=float(cents.sum() / at_stake),
            gained=float(cents.sum() / at_stake - usual),
            flagged=float(flagged.mean()) if len(fraud) else np.nan,
        )
        for name, (cents, flagged) in outcomes.items()
    }


def outcome(payments: Iterator[Inputs], score: Score, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Cents[B] that pass before the first flag, and whether there was one[B]."""
    passed, flagged = np.zeros(0, np.int64), np.zeros(0, np.bool_)
    for number, payment in enumerate(payments):
        if number == 0:
            passed, flagged = np.zeros(len(payment), np.int64), np.zeros(len(payment), np.bool_)
        flagged = flagged | (score(payment) >= threshold)
        passed = passed + np.where(flagged, 0, payment.amount_cents)
    return passed, flagged


def _split(fraud: Inputs, pause_us: int) -> Iterator[Inputs]:
    part = fraud.with_amounts(fraud.amount_cents // PARTS)
    rest = fraud.amount_cents - part.amount_cents * (PARTS - 1)  # no cent is left behind
    for number in range(PARTS):
        payment = part if number < PARTS - 1 else part.with_amounts(rest)
        yield payment
        part = payment.with_states(payment.remembered()).later(pause_us)
