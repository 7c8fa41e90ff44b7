"""The band of a cascade: which cheap scores are clear enough to be the answer.

Scores on the validation rows in, bounds and what they cost out. Only the clear negatives stop at the cheap model: they
are nearly all rows, and what ranks lowest decides little. A high cheap score always goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.optimise.measure import ranking, ranking_loss
from millrace.judge.bootstrap import unit_weights
from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats
from millrace.registry.model_spec import Cascade

CASCADE: Final = "cascade.onnx"


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeConfig:
    """Bounds that a cascade has to keep on the validation rows; else there is none."""

    min_saved_share: float = 0.7
    """Least share of the rows that has to stop at the cheap model."""
    max_ap_loss: float = 0.01
    """Share of the full model's average precision that may be lost: the upper end of a 95 % interval."""
    shares: tuple[float, ...] = (0.9, 0.85, 0.8, 0.75, 0.7)
    """Shares that are tried, the largest first. More than nine tenths would save little of what is left to save."""
    resamples: int = 100
    in_use: bool = True
    """Whether scores are made by it: threshold, calibration and reference window are of what is served."""


@dataclass(frozen=True, slots=True)
class Band:
    """A cascade that keeps the bounds (None: none does), and what was tried."""

    cascade: Cascade | None
    tried: list[dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """What `optimisation` in `model.json` says of it."""
        why = None if self.cascade else "no share of rows keeps both bounds on the validation rows"
        return {"tried": self.tried, "why_not": why}


def choose_band(
    rows: Judged, cheap: NDArray[np.float32], full: NDArray[np.float32], threshold: float, config: CascadeConfig
) -> Band:
    """The largest share of rows to stop whose loss of average precision keeps the bound beyond doubt.

    cheap[V], full[V]; `threshold` is the decision threshold: the cheap model never decides for a review.
    """
    tried: list[dict[str, float]] = []
    if not ranking(rows, full):
        return Band(None, tried)  # no positive to judge by

    weights = unit_weights(rows, config.resamples)
    for share in sorted(config.shares, reverse=True):
        lower = min(float(np.quantile(cheap, share)), threshold)
        if not 0.0 < lower < 1.0:
            continue
        cascade = Cascade(file=CASCADE, lower=lower, upper=1.0)
        found = _measure(rows, cascade, cheap, full, weights)
        tried.append(found)
        if found["saved_share"] >= config.min_saved_share and found["ap_loss_high"] <= config.max_ap_loss:
            return Band(cascade, tried)
    return Band(None, tried)


def _measure(
    rows: Judged, cascade: Cascade, cheap: NDArray[np.float32], full: NDArray[np.float32], weights: Floats
) -> dict[str, float]:
    """`ap_loss` is relative to the full model's average precision."""
    sure = cascade.is_sure(cheap)
    loss = ranking_loss(rows, full, np.where(sure, cheap, full), weights)
    usual = ranking(rows, full) or math.nan

    return {
        "lower": cascade.lower,
        "saved_share": float(sure.mean()),
        "ap_loss": loss.value / usual,
        "ap_loss_high": loss.high / usual,
    }
