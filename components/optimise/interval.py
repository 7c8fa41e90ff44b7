"""The interval around a quantity, set so that it holds as many validation rows as was asked for.

Split-conformal, each end for itself: the network's quantiles are widened, or narrowed, by the quantile of how far
labels lie beyond them (Romano et al. 2019, "Conformalized Quantile Regression"). Arrays in, figures out.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """What is added to both ends, and what it gives; in the label's unit."""

    below: float
    """Taken from the low end; negative where that was too low."""
    above: float
    """Added to the high end."""
    asked: float
    """Share of labels that it is meant to hold."""
    coverage: float
    """Share of the validation labels that it holds."""
    width: float
    """Mean of high less low on the validation rows."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(answers: NDArray[np.float32], label: NDArray[np.float32], asked: float) -> Interval:
    """answers[V, 3] score, low, high and label[V] of the validation rows → the interval that holds `asked` of them."""
    score, low, high = answers.astype(np.float64).T
    tail = (1.0 - asked) / 2.0
    below, above = _beyond(low - label, tail), _beyond(label - high, tail)
    ends = np.minimum(low - below, score), np.maximum(high + above, score)
    held = (label >= ends[0]) & (label <= ends[1])
    width = float((ends[1] - ends[0]).mean())
    return Interval(below=below, above=above, asked=asked, coverage=float(held.mean()), width=width)


def _beyond(distance: NDArray[np.float64], tail: float) -> float:
    """How far an end is moved so that at most `tail` of the rows lie beyond it, with few rows a little further."""
    level = min(math.ceil((1.0 - tail) * (len(distance) + 1)) / len(distance), 1.0)
    return float(np.quantile(distance, level, method="higher"))
