"""Everything that is measured about a model of classes. Scores in, figures out; the rules read nothing else.

A ranking of a rare class has all of it; where nothing is reviewed and no threshold decides, those parts are absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.evaluate import evidence
from components.evaluate.baselines import Baseline
from components.evaluate.classes.attacks import AttackFigures, measure_attacks
from components.evaluate.classes.cascade import CascadeFigures, measure_cascade
from components.evaluate.config import ClassLimits, RankingLimits
from components.evaluate.evidence import SLICE_RESAMPLES, against, asked, under_stress
from components.evaluate.latency import measure_latency
from components.evaluate.window import Rival, TestWindow
from millrace.judge.bootstrap import Interval, Statistic, difference, interval, unit_weights, with_intervals
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


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What the model's own decision threshold does on the judged rows."""

    threshold: float
    precision: float
    recall: float
    flagged_units_per_day: float
    confusion: tuple[tuple[int, int], tuple[int, int]]
    """Rows negative, positive; columns passed, flagged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison(evidence.Comparison):
    """The gain is in average precision."""

    unit_precision: Interval | None
    """The gain in unit precision, where units are reviewed."""


@dataclass(frozen=True, slots=True)
class SliceFigures:
    """The model on the rows of one slice."""

    rows: int
    positives: int
    auc_roc: Interval
    average_precision: float
    recall: float | None
    """At the decision threshold."""


@dataclass(frozen=True, slots=True)
class StressFigures:
    """The model on a bad day."""

    average_precision: float
    kept: float
    """Share of what the same rows with good inputs have above chance: 1 is nothing lost, 0 is guessing."""
    mean_change: float
    """Mean absolute change of a score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence(evidence.Evidence[Comparison, SliceFigures, StressFigures]):
    """What is measured about classes besides."""

    protocol: ProtocolMetrics
    perfect_unit_precision: float | None
    """Unit precision of a perfect ranking on the same days."""
    at_threshold: AtThreshold | None
    attacks: dict[str, AttackFigures]
    review_capacity: int | None
    cascade: CascadeFigures | None
    """Where the model has a cheap first stage in use."""


def at_threshold(rows: Judged, scores: Floats, threshold: float) -> AtThreshold:
    """Precision, recall and daily load of flagging every score at or above `threshold`."""
    flagged = scores >= threshold
    caught = int((flagged & rows.label).sum())
    positives = int(rows.label.sum())
    alarms = int(flagged.sum())
    false_alarms = alarms - caught
    days = len(np.unique(rows.day))
    units = len(np.unique(np.stack([rows.day[flagged], rows.unit[flagged]]), axis=1).T)
    return AtThreshold(
        threshold=threshold,
        precision=caught / alarms if alarms else math.nan,
        recall=caught / positives if positives else math.nan,
        flagged_units_per_day=units / days if days else math.nan,
        confusion=((len(rows) - positives - false_alarms, false_alarms), (positives - caught, caught)),
    )


def compare(rows: Judged, scores: Floats, other: Floats, weights: Floats, k: int | None) -> Comparison:
    """The model's gain over another's scores on the same rows."""
    reviewed = None if k is None else difference(rows, scores, other, weights, _at(k))
    return Comparison(
        gain=difference(rows, scores, other, weights, average_precision),
        unit_precision=reviewed,
        other=judged_metrics(rows, other, k).figures,
    )


def measure_slices(
    rows: Judged, scores: Floats, masks: Mapping[str, Mask], threshold: float | None, seed: int
) -> dict[str, SliceFigures]:
    """Figures of each slice that has rows; masks[J]."""
    weights = unit_weights(rows, SLICE_RESAMPLES, seed)
    found = {}
    for name, mask in masks.items():
        part = rows.where(mask)
        if not len(part):
            continue

        own = scores[mask]
        found[name] = SliceFigures(
            rows=len(part),
            positives=int(part.label.sum()),
            auc_roc=interval(roc_auc(part, own).item(), roc_auc(part, own, weights)),
            average_precision=average_precision(part, own).item(),
            recall=None if threshold is None else at_threshold(part, own, threshold).recall,
        )
    return found


def measure_stresses(
    model: ModelArtifact, window: TestWindow[Judged], rows: int, seed: int
) -> dict[str, StressFigures]:
    """Score every positive and a sample of negative rows, `rows` in all, under each stress of the workload."""
    workload = window.data.workload
    chosen = _stress_sample(window.judged.label, rows, seed)
    events = workload.judging.what_if(window.data, window.judged_rows[chosen])
    judged = window.judged.where(chosen)
    clean = asked(model, events).point
    chance = float(judged.label.mean())
    usual = average_precision(judged, clean).item() - chance

    found = {}
    for name, _, answered in under_stress(model, workload, events):
        value = average_precision(judged, answered.point).item()
        found[name] = StressFigures(
            average_precision=value,
            kept=(value - chance) / usual if usual > 0 else math.nan,
            mean_change=float(np.abs(answered.point - clean).mean()),
        )
    return found


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
    k = None if reviewed is None else capacity
    threshold = None if reviewed is None else model.decision_threshold
    weights = unit_weights(rows, limits.resamples, seed)

    def compared(other: Predictions) -> Comparison:
        return compare(rows, scores, other.point, weights, k)

    return Evidence(
        protocol=judged_metrics(rows, scores, k),
        figures=with_intervals(rows, scores, weights, k, 0.0 if reviewed is None else reviewed.review_cost),
        perfect_unit_precision=None if k is None else unit_precision(rows, rows.label.astype(np.float64), k).item(),
        at_threshold=None if threshold is None else at_threshold(rows, scores, threshold),
        baselines={name: compared(baseline.answers.where(window.counts)) for name, baseline in baselines.items()},
        champion=against(rival, compared),
        slices=measure_slices(rows, scores, masks, threshold, seed),
        stresses=measure_stresses(model, window, limits.stress_rows, seed),
        attacks={} if reviewed is None else _attacks(model, window),
        latency=measure_latency(model, window.data, window.rows, limits.latency_calls),
        review_capacity=k,
        baseline_parameters={name: baseline.parameters for name, baseline in baselines.items()},
        cascade=measure_cascade(model, window, scores, weights),
    )


def _attacks(model: ModelArtifact, window: TestWindow[Judged]) -> dict[str, AttackFigures]:
    workload = window.data.workload
    attacked = workload.judging.what_if(window.data, window.judged_rows[window.judged.label])
    return measure_attacks(model, workload.ranked.ATTACKS, attacked)


def _at(k: int) -> Statistic:
    def statistic(rows: Judged, scores: Floats, weights: Floats | None) -> Floats:
        return unit_precision(rows, scores, k, weights)

    return statistic


def _stress_sample(label: NDArray[np.bool_], rows: int, seed: int) -> NDArray[np.int64]:
    """Positions, in order: every positive, but half of `rows` at most, and as many random negatives as make them up."""
    positives = np.flatnonzero(label)
    negatives = np.flatnonzero(~label)
    rng = np.random.default_rng(seed)
    if len(positives) > rows // 2:
        positives = rng.choice(positives, rows // 2, replace=False)
    size = min(max(rows - len(positives), 1), len(negatives))
    return np.sort(np.concatenate([positives, rng.choice(negatives, size, replace=False)]))
