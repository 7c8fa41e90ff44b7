"""Which groups of inputs a score owes itself to: the same few for an answer of the endpoint and for a row of a file."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.installed import Workload
from millrace.workload import Task

MAX_REASONS: Final = 3


def reasons(workload: Workload, score: float, variant_scores: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The groups that matter most, strongest first: `{"input": group, "effect": fall in score without it}`.

    variant_scores[K] are those of `Explain.variants`, in the order of its groups. What lowers the score is no reason
    for a decision, but is one for a quantity.
    """
    effects = (score - variant_scores.astype(float)).tolist()
    sizes = [abs(effect) for effect in effects] if workload.task is Task.REGRESSION else effects
    strongest = sorted(zip(sizes, workload.explain.GROUPS, effects, strict=True), reverse=True)
    return [
        {"input": group, "effect": round(effect, 4)}
        for size, group, effect in strongest[:MAX_REASONS]
        if size >= workload.explain.MIN_EFFECT
    ]
