"""How far scores can be believed as probabilities: Brier score, calibration error, reliability curve.

Judged rows and scores in [0, 1] in, figures out, weighted by unit like those of `millrace.judge.ranking`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats, ratio, unit_sums

RELIABILITY_EDGES: Final = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
"""Fixed edges of the bins: fine where rare events live, and the same for every model."""


def brier_skill(rows: Judged, scores: Floats, weights: Floats | None = None) -> Floats:
    """1 - Brier score / that of always answering the share of positives: 1 is perfect, 0 knows nothing. [B] ≤ 1."""
    count, positives, error = unit_sums(
        rows.unit, rows.units, weights, [np.ones(len(rows)), rows.label, (scores - rows.label) ** 2]
    )
    rate = ratio(positives, count)
    return 1 - ratio(error, count * rate * (1 - rate))


def brier(rows: Judged, scores: Floats, weights: Floats | None = None) -> Floats:
    """Mean squared distance of score and label. [B] in [0, 1]."""
    count, error = unit_sums(rows.unit, rows.units, weights, [np.ones(len(rows)), (scores - rows.label) ** 2])
    return ratio(error, count)


def calibration_error(rows: Judged, scores: Floats, weights: Floats | None = None) -> Floats:
    """Expected calibration error: mean over rows of |mean score - share of positives| of their bin. [B] in [0, 1]."""
    bins = _reliability_bins(scores)
    excess = [np.where(bins == b, scores - rows.label, 0.0) for b in np.unique(bins)]
    count, *gaps = unit_sums(rows.unit, rows.units, weights, [np.ones(len(rows)), *excess])
    return ratio(np.abs(gaps).sum(axis=0) if gaps else np.zeros_like(count), count)


def reliability(rows: Judged, scores: Floats) -> list[dict[str, float]]:
    """The calibration curve: per filled bin its rows, mean score and share of positives."""
    bins = _reliability_bins(scores)
    return [
        {
            "rows": int((bins == b).sum()),
            "mean_score": float(scores[bins == b].mean()),
            "positive_share": float(rows.label[bins == b].mean()),
        }
        for b in np.unique(bins)
    ]


def _reliability_bins(scores: Floats) -> NDArray[np.int64]:
    return np.clip(np.digitize(scores, RELIABILITY_EDGES), 1, len(RELIABILITY_EDGES) - 1)
