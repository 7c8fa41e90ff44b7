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

from millrace.judge.bootstrap import Interval
from millrace.registry.model_artifact import ModelArtifact
from millrace.workload import WhatIf

AS_IT_WAS: Final = "as_it_was"

Attack = Callable[[Any], Iterator[Any]]
Score = Callable[[WhatIf], NDArray[np.float32]]


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


def as_it_was(positives: WhatIf) -> Iterator[WhatIf]:
    """The positives of the test week, unchanged."""
    yield positives


def measure_attacks(model: ModelArtifact, attacks: Mapping[str, Attack], events: WhatIf) -> dict[str, AttackFigures]:
    """Every attack in place of every positive among `events`; NaN where there is none, empty where nobody attacks."""
    if not attacks:
        return {}
    positives = events.where(events.label)
    length = model.spec.sequence_length

    def score(tried: WhatIf) -> NDArray[np.float32]:
        return model.score(*tried.tensors(length))

    played: dict[str, Attack] = {AS_IT_WAS: as_it_was, **attacks}
    outcomes = {name: outcome(attack(positives), score, model.decision_threshold) for name, attack in played.items()}
    at_stake = positives.value.sum() or np.nan
    usual = outcomes[AS_IT_WAS][0].sum() / at_stake
    return {
        name: AttackFigures(
            passed=float(value.sum() / at_stake),
            gained=float(value.sum() / at_stake - usual),
            flagged=float(flagged.mean()) if len(positives) else np.nan,
        )
        for name, (value, flagged) in outcomes.items()
    }


def outcome(events: Iterator[WhatIf], score: Score, threshold: float) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Value[B] that passes before the first flag, and whether there was one[B]."""
    passed: NDArray[Any] = np.zeros(0, np.int64)
    flagged = np.zeros(0, np.bool_)
    for number, event in enumerate(events):
        if number == 0:
            passed, flagged = np.zeros(len(event), event.value.dtype), np.zeros(len(event), np.bool_)
        flagged = flagged | (score(event) >= threshold)
        passed = passed + np.where(flagged, 0, event.value)
    return passed, flagged
