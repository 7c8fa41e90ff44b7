"""How answers of a class should turn out while labels are not in: confidence-based estimation from calibrated scores.

It sees what inputs do to performance; it cannot see that scores have stopped being true (concept drift).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from millrace.judge.bootstrap import Interval, interval, unit_weights
from millrace.judge.ranking import Judged, average_precision, unit_precision
from millrace.judge.rows import Floats, Mask


@dataclass(frozen=True, slots=True)
class Calibration:
    """Score → share of positives, non-decreasing and linear between the points; learned where labels are known."""

    score: Floats
    share: Floats

    def __call__(self, scores: Floats) -> Floats:
        """[N] in [0, 1]."""
        return np.interp(scores, self.score, self.share)


def calibrate(data: Judged, scores: Floats) -> Calibration:
    """Isotonic regression of labels on scores; the scores as they are where there is nothing to learn from."""
    if not len(data) or not data.label.any():
        return Calibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    from scipy.optimize import isotonic_regression

    points, place = np.unique(scores, return_inverse=True)
    rows = np.bincount(place)
    shares = isotonic_regression(np.bincount(place, data.label) / rows, weights=rows).x
    return Calibration(points, np.asarray(shares, np.float64))


def expected(
    base: Judged, scores: Floats, flagged: Mask, calibration: Calibration, k: int, draws: int = 100, seed: int = 0
) -> dict[str, Interval]:
    """Average precision, unit precision@k, precision and recall of `flagged` rows as they should turn out.

    Labels are drawn from the calibrated scores, and units are resampled, `draws` times; labels of `base` are not read.
    """
    p = calibration(scores)
    rng = np.random.default_rng(seed)
    weights = unit_weights(base, draws, seed)
    found: dict[str, list[float]] = {
        name: [] for name in ("average_precision", "unit_precision", "precision", "recall")
    }

    for weight in weights:
        label = rng.random(len(p)) < p
        data = Judged(base.unit, base.day, label, base.value, base.units)
        row_weight = weight[base.unit]
        caught = float(row_weight[label & flagged].sum())
        found["average_precision"].append(average_precision(data, scores, weight[None]).item())
        found["unit_precision"].append(unit_precision(data, scores, k, weight[None]).item())
        found["precision"].append(_over(caught, float(row_weight[flagged].sum())))
        found["recall"].append(_over(caught, float(row_weight[label].sum())))

    return {name: _middle(np.array(values)) for name, values in found.items()}


def _over(top: float, bottom: float) -> float:
    return top / bottom if bottom else math.nan


def _middle(draws: Floats) -> Interval:
    usable = draws[np.isfinite(draws)]
    return interval(float(usable.mean()) if len(usable) else math.nan, draws)
