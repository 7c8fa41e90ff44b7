"""Intervals by bootstrap over units, which depend on nothing but themselves: a resample gives each a Poisson weight.

Judged rows and scores in, intervals out. Two models compared on the same rows share their resamples, so that the
interval of a difference is that of a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np

from millrace.judge.calibration import brier, brier_skill, calibration_error
from millrace.judge.ranking import Judged, average_precision, caught_share, cost_ratio, review, roc_auc
from millrace.judge.rows import Floats

R = TypeVar("R")
"""Rows with the truth about them."""
A = TypeVar("A")
"""What a model answers about these rows."""

Statistic = Callable[[Judged, Floats, Floats | None], Floats]
"""A figure of classes: (rows, scores, weights[B, units] or None) → [B]."""

STATISTICS: Final[Mapping[str, Statistic]] = {
    "auc_roc": roc_auc,
    "average_precision": average_precision,
    "brier": brier,
    "brier_skill": brier_skill,
    "calibration_error": calibration_error,
}


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap interval; `low` and `high` are the 2.5 % and 97.5 % quantiles by default."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Rows(Protocol):
    """What is resampled."""

    @property
    def units(self) -> int:
        """How many units the rows are of."""


def unit_weights(rows: Rows, resamples: int, seed: int = 0) -> Floats:
    """weights[B, units]: how often each unit was drawn in each of B Poisson bootstrap resamples."""
    return np.random.default_rng(seed).poisson(1.0, (resamples, rows.units)).astype(np.float64)


def interval(value: float, draws: Floats, level: float = 0.95) -> Interval:
    """`value` with the central `level` quantiles of its bootstrap draws; NaN when there are no usable draws."""
    usable = draws[np.isfinite(draws)]
    if not len(usable) or not math.isfinite(value):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def difference(rows: R, a: A, b: A, weights: Floats, statistic: Callable[[R, A, Floats | None], Floats]) -> Interval:
    """statistic(a) - statistic(b) on the same rows and the same resamples."""
    value = statistic(rows, a, None).item() - statistic(rows, b, None).item()
    return interval(value, statistic(rows, a, weights) - statistic(rows, b, weights))


def with_intervals(
    rows: Judged, scores: Floats, weights: Floats, k: int | None, review_cost: float
) -> dict[str, Interval]:
    """Every figure of these rows, by name: STATISTICS, then what reviewing k units a day brings, where that is done."""
    figures = {name: interval(f(rows, scores, None).item(), f(rows, scores, weights)) for name, f in STATISTICS.items()}
    if k is None:
        return figures

    plain = review(rows, scores, k)
    drawn = review(rows, scores, k, weights)
    figures["unit_precision"] = interval(plain.unit_precision.item(), drawn.unit_precision)
    figures["caught_value_share"] = interval(caught_share(plain).item(), caught_share(drawn))
    figures["cost_ratio"] = interval(cost_ratio(plain, review_cost).item(), cost_ratio(drawn, review_cost))
    return figures
