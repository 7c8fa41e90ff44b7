"""Everything that is measured about a model of classes. Scores in, figures out; the rules read nothing else.

A ranking of a rare class has all of it; where nothing is reviewed and no threshold decides, those parts are absent.
Parts with figures of their own: `threshold.py`, `slices.py`, `stresses.py`, `attacks.py`, `cascade.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from components.evaluate import evidence
from components.evaluate.baselines import XGBOOST, Baseline
from components.evaluate.classes.attacks import AttackFigures, Beside, measure_attacks
from components.evaluate.classes.cascade import CascadeFigures, measure_cascade
from components.evaluate.classes.relative import average_precision_lift, positive_share, unit_precision_lift
from components.evaluate.classes.slices import SliceFigures, measure_slices
from components.evaluate.classes.stresses import StressFigures, measure_stresses
from components.evaluate.classes.threshold import AtThreshold, at_threshold
from components.evaluate.config import ClassLimits, RankingLimits
from components.evaluate.evidence import against, best_feature
from components.evaluate.latency import measure_latency
from components.evaluate.window import Rival, TestWindow
from millrace.judge.bootstrap import Interval, Statistic, difference, unit_weights, with_intervals
from millrace.judge.ranking import (
    Judged,
    ProtocolMetrics,
    average_precision,
    judged_metrics,
    roc_auc,
    unit_precision,
)
from millrace.judge.regression import Predictions
from millrace.judge.rows import Floats, Mask
from millrace.registry.model_artifact import ModelArtifact


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison(evidence.Comparison):
    """The gain is in average precision."""

    unit_precision: Interval | None
    """The gain in unit precision, where units are reviewed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence(evidence.Evidence[Comparison, SliceFigures, StressFigures]):
    """What is measured about classes besides."""

    protocol: ProtocolMetrics
    positive_share: float
    """The average precision of guessing."""
    average_precision_lift: Interval
    """Average precision over that."""
    unit_precision_lift: Interval | None
    """Unit precision over that of reviewing at random."""
    perfect_unit_precision: float | None
    """Unit precision of a perfect ranking on the same days."""
    at_threshold: AtThreshold | None
    attacks: dict[str, AttackFigures]
    review_capacity: int | None
    cascade: CascadeFigures | None
    """Where the model has a cheap first stage in use."""


def compare(rows: Judged, scores: Floats, other: Floats, weights: Floats, k: int | None) -> Comparison:
    """The model's gain over another's scores on the same rows."""
    reviewed = None if k is None else difference(rows, scores, other, weights, _at(k))
    return Comparison(
        gain=difference(rows, scores, other, weights, average_precision),
        unit_precision=reviewed,
        other=judged_metrics(rows, other, k).figures,
    )


def gather(
    window: TestWindow[Judged],
    scores: Floats,
    model: ModelArtifact,
    baselines: Mapping[str, Baseline],
    rival: Rival | None,
    masks: Mapping[str, Mask],
    limits: ClassLimits,
    capacity: int,
    seed: int = 0,
) -> Evidence:
    """Measure everything: scores[J] of the judged rows, masks[J] of slices, and the model that serves now.

    `capacity` is how many units are reviewed a day; it does not matter where nothing is reviewed.
    """
    rows = window.judged
    reviewed = limits if isinstance(limits, RankingLimits) else None
    k = None if reviewed is None else bearable(rows, capacity, reviewed.max_review_share)
    threshold = None if reviewed is None else model.decision_threshold
    weights = unit_weights(rows, limits.resamples, seed)

    others = {name: baseline.answers.where(window.counts) for name, baseline in baselines.items()}
    strong = others[XGBOOST].point
    asks = baselines[XGBOOST].answer
    beside = None
    if asks is not None and reviewed is not None and reviewed.max_attack_loss is not None:
        beside = Beside(asks, strong)

    def compared(other: Predictions) -> Comparison:
        return compare(rows, scores, other.point, weights, k)

    return Evidence(
        protocol=judged_metrics(rows, scores, k),
        figures=with_intervals(rows, scores, weights, k, 0.0 if reviewed is None else reviewed.review_cost),
        positive_share=positive_share(rows).item(),
        average_precision_lift=average_precision_lift(rows, scores, weights),
        unit_precision_lift=None if k is None else unit_precision_lift(rows, scores, k, weights),
        best_feature=best_feature(partial(_skill, rows), window.data, window.judged_rows),
        perfect_unit_precision=None if k is None else unit_precision(rows, rows.label.astype(np.float64), k).item(),
        at_threshold=None if threshold is None else at_threshold(rows, scores, threshold),
        baselines={name: compared(other) for name, other in others.items()},
        champion=against(rival, compared),
        slices=measure_slices(rows, scores, masks, threshold, seed, strong),
        stresses=measure_stresses(
            model, window, limits.stress_rows, seed, asks if limits.max_stress_loss is not None else None
        ),
        attacks={} if reviewed is None else measure_attacks(model, window, scores, beside, weights),
        latency=measure_latency(model, window.data, window.rows, limits.latency_calls),
        review_capacity=k,
        baseline_parameters={name: baseline.parameters for name, baseline in baselines.items()},
        cascade=measure_cascade(model, window, scores, weights),
    )


def bearable(rows: Judged, capacity: int, share: float | None) -> int:
    """`capacity` units a day, but at most a `share` of those that are active on a usual day; at least 1."""
    if share is None:
        return capacity
    active = [len(np.unique(rows.unit[rows.day == day])) for day in np.unique(rows.day)]
    return max(min(capacity, math.ceil(share * float(np.median(active or [0])))), 1)


def _skill(rows: Judged, values: NDArray[np.float32]) -> float:
    """Of one feature, either way: 2 AUC - 1."""
    return abs(2 * roc_auc(rows, np.nan_to_num(values.astype(np.float64))).item() - 1)


def _at(k: int) -> Statistic:
    def statistic(rows: Judged, scores: Floats, weights: Floats | None) -> Floats:
        return unit_precision(rows, scores, k, weights)

    return statistic
