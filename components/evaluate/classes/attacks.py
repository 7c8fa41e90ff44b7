"""What gets past a model's threshold when those it looks for know that they are watched.

An attack is what is done in place of one positive: events one after the other, until one of them is flagged and the
unit is blocked. Nothing but the decision threshold stands in the way. What they do is the workload's (`ATTACKS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.evaluate.baselines import Answer
from components.evaluate.classes.relative import equally_busy
from components.evaluate.window import TestWindow
from millrace.judge.bootstrap import Interval, interval
from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats, ratio
from millrace.registry.model_artifact import ModelArtifact
from millrace.workload import WhatIf

AS_IT_WAS: Final = "as_it_was"

Attack = Callable[[Any], Iterator[Any]]
Score = Callable[[WhatIf], NDArray[np.float32]]
Outcome = tuple[NDArray[Any], NDArray[np.bool_]]
"""[B] value of each positive that passes before the first flag, [B] whether there was one."""


@dataclass(frozen=True, slots=True)
class AttackFigures:
    """What an attack is worth to the attacker."""

    passed: float
    """Share of the positives' value that gets through, in [0, 1]."""
    gained: float
    """The same, less what gets through without the attack: the loss to it."""
    flagged: float
    """Share of the positives of which at least one event is flagged."""
    loss: Interval | None = None
    """What it gains more than against XGBoost with as many alarms; where that is demanded."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Another model, whose losses the model's are held against."""

    answer: Answer
    scores: Floats
    """[J] of the judged rows."""


def as_it_was(positives: WhatIf) -> Iterator[WhatIf]:
    """The positives of the test week, unchanged."""
    yield positives


def measure_attacks(
    model: ModelArtifact, window: TestWindow[Judged], scores: Floats, beside: Beside | None, weights: Floats
) -> dict[str, AttackFigures]:
    """Every attack of the workload in place of every judged positive; empty where nobody attacks.

    scores[J] of the judged rows say how many alarms the model raises; losses are measured where it is held `beside`
    another. NaN where there is no positive.
    """
    workload = window.data.workload
    attacks = workload.ranked.ATTACKS
    if not attacks:
        return {}

    label = window.judged.label
    positives = workload.judging.what_if(window.data, window.judged_rows[label])
    length = model.spec.sequence_length
    threshold = model.decision_threshold

    def own(tried: WhatIf) -> NDArray[np.float32]:
        return model.score(*tried.tensors(length))

    outcomes = play(attacks, positives, own, threshold)
    if beside is None:
        return attack_figures(outcomes, positives.value)

    def theirs(tried: WhatIf) -> NDArray[np.float32]:
        return beside.answer(tried.tensors(length)[0]).astype(np.float32)

    busy = equally_busy(scores, threshold, beside.scores.astype(np.float32))
    others = play(attacks, positives, theirs, float(np.float32(busy)))
    losses = attack_losses(outcomes, others, positives.value, window.judged.unit[label], weights)
    return attack_figures(outcomes, positives.value, losses)


def play(attacks: Mapping[str, Attack], positives: WhatIf, score: Score, threshold: float) -> dict[str, Outcome]:
    """What becomes of the positives as they were, and under each attack, against one model."""
    played: dict[str, Attack] = {AS_IT_WAS: as_it_was, **attacks}
    return {name: outcome(attack(positives), score, threshold) for name, attack in played.items()}


def attack_figures(
    outcomes: Mapping[str, Outcome], value: NDArray[Any], losses: Mapping[str, Interval] | None = None
) -> dict[str, AttackFigures]:
    """The figures of what `play` found; value[B] of the positives."""
    at_stake = value.sum() or np.nan
    usual = outcomes[AS_IT_WAS][0].sum() / at_stake
    return {
        name: AttackFigures(
            passed=float(passed.sum() / at_stake),
            gained=float(passed.sum() / at_stake - usual),
            flagged=float(flagged.mean()) if len(flagged) else np.nan,
            loss=None if losses is None else losses.get(name),
        )
        for name, (passed, flagged) in outcomes.items()
    }


def attack_losses(
    model: Mapping[str, Outcome],
    reference: Mapping[str, Outcome],
    value: NDArray[Any],
    unit: NDArray[np.int64],
    weights: Floats,
) -> dict[str, Interval]:
    """Attack → share of the positives' value that it gains against the model, less what it gains against the reference.

    value[B] and unit[B] of the positives, weights[., units].
    """
    at_stake = value.astype(np.float64)

    def extra(outcomes: Mapping[str, Outcome], name: str) -> Floats:
        gained: Floats = (outcomes[name][0] - outcomes[AS_IT_WAS][0]).astype(np.float64)
        return gained

    def loss(name: str, w: Floats) -> Floats:
        per_unit = w[:, unit]
        return ratio(per_unit @ (extra(model, name) - extra(reference, name)), per_unit @ at_stake)

    once = np.ones((1, weights.shape[1]))
    return {name: interval(loss(name, once).item(), loss(name, weights)) for name in model if name != AS_IT_WAS}


def outcome(events: Iterator[WhatIf], score: Score, threshold: float) -> Outcome:
    """Value[B] that passes before the first flag, and whether there was one[B]."""
    passed: NDArray[Any] = np.zeros(0, np.int64)
    flagged = np.zeros(0, np.bool_)
    for number, event in enumerate(events):
        if number == 0:
            passed, flagged = np.zeros(len(event), event.value.dtype), np.zeros(len(event), np.bool_)
        flagged = flagged | (score(event) >= threshold)
        passed = passed + np.where(flagged, 0, event.value)
    return passed, flagged
