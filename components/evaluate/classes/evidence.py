"""Everything that is measured about a model of classes. Scores in, figures out; the rules read nothing else.

A ranking of a rare class has all of it; where nothing is reviewed and no threshold decides, those parts are absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from components.evaluate import evidence
from components.evaluate.baselines import XGBOOST, Answer, Baseline
from components.evaluate.classes.attacks import AttackFigures, measure_attacks
from components.evaluate.classes.cascade import CascadeFigures, measure_cascade
from components.evaluate.classes.relative import (
    attack_losses,
    auc_loss,
    average_precision_lift,
    equally_busy,
    kept_loss,
    positive_share,
    unit_precision_lift,
)
from components.evaluate.config import ClassLimits, RankingLimits
from components.evaluate.evidence import SLICE_RESAMPLES, against, asked, best_feature, under_stress
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
from millrace.workload import WhatIf


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
    auc_loss: Interval | None = None
    """AUC that XGBoost has here and the model has not."""


@dataclass(frozen=True, slots=True)
class StressFigures:
    """The model on a bad day."""

    average_precision: float
    kept: float
    """Share of what the same rows with good inputs have above chance: 1 is nothing lost, 0 is guessing."""
    mean_change: float
    """Mean absolute change of a score."""
    loss: Interval | None = None
    """What XGBoost has left and the model has not, over what the better of both has above guessing on a good day."""


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
    rows: Judged,
    scores: Floats,
    masks: Mapping[str, Mask],
    threshold: float | None,
    seed: int,
    reference: Floats | None = None,
) -> dict[str, SliceFigures]:
    """Figures of each slice that has rows, beside those of the `reference` scores; masks[J]."""
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
            auc_loss=None if reference is None else auc_loss(part, own, reference[mask], weights),
        )
    return found


def measure_stresses(
    model: ModelArtifact, window: TestWindow[Judged], rows: int, seed: int, reference: Answer | None = None
) -> dict[str, StressFigures]:
    """Score every positive and a sample of negative rows, `rows` in all, under each stress of the workload.

    Where there is a `reference`, it is asked the same.
    """
    workload = window.data.workload
    chosen = _stress_sample(window.judged.label, rows, seed)
    events = workload.judging.what_if(window.data, window.judged_rows[chosen])
    judged = window.judged.where(chosen)
    clean = asked(model, events).point
    chance = float(judged.label.mean())
    usual = average_precision(judged, clean).item() - chance

    length = model.spec.sequence_length
    weights = unit_weights(judged, SLICE_RESAMPLES, seed)
    theirs = None if reference is None else reference(events.tensors(length)[0])

    found = {}
    for name, changed, answered in under_stress(model, workload, events):
        value = average_precision(judged, answered.point).item()
        loss = None
        if reference is not None and theirs is not None:
            stressed = reference(changed.tensors(length)[0])
            loss = kept_loss(judged, (clean, answered.point), (theirs, stressed), weights)
        found[name] = StressFigures(
            average_precision=value,
            kept=(value - chance) / usual if usual > 0 else math.nan,
            mean_change=float(np.abs(answered.point - clean).mean()),
            loss=loss,
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
    k = None if reviewed is None else bearable(rows, capacity, reviewed.max_review_share)
    threshold = None if reviewed is None else model.decision_threshold
    weights = unit_weights(rows, limits.resamples, seed)

    others = {name: baseline.answers.where(window.counts) for name, baseline in baselines.items()}
    strong = others[XGBOOST].point
    asks = baselines[XGBOOST].answer

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
        attacks={} if reviewed is None else _attacks(model, window, scores, strong, asks, reviewed, weights),
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


def _attacks(
    model: ModelArtifact,
    window: TestWindow[Judged],
    scores: Floats,
    reference: Floats,
    asks: Answer | None,
    limits: RankingLimits,
    weights: Floats,
) -> dict[str, AttackFigures]:
    """`reference` are the scores of the rows by what `asks` asks."""
    workload = window.data.workload
    attacks = workload.ranked.ATTACKS
    label = window.judged.label
    attacked = workload.judging.what_if(window.data, window.judged_rows[label])
    found = measure_attacks(model, attacks, attacked)
    if limits.max_attack_loss is None or asks is None:
        return found

    length = model.spec.sequence_length

    def own(tried: WhatIf) -> NDArray[np.float32]:
        return model.score(*tried.tensors(length))

    def theirs(tried: WhatIf) -> NDArray[np.float32]:
        return asks(tried.tensors(length)[0]).astype(np.float32)

    busy = np.float32(equally_busy(scores, model.decision_threshold, reference.astype(np.float32)))
    losses = attack_losses(
        attacked,
        window.judged.unit[label],
        attacks,
        (own, model.decision_threshold),
        (theirs, float(busy)),
        weights,
    )
    return {name: replace(figures, loss=losses.get(name)) for name, figures in found.items()}


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
