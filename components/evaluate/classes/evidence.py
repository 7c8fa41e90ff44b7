"""Everything that is measured about a model of classes. Scores in, figures out; the rules read nothing else.

A ranking of a rare class has all of it; where nothing is reviewed and no threshold decides, those parts are absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.evaluate.classes.attacks import AttackFigures, measure_attacks
from components.evaluate.classes.baselines import Baseline
from components.evaluate.classes.cascade import CascadeFigures, measure_cascade
from components.evaluate.config import ClassLimits, RankingLimits
from components.evaluate.examination import plain
from components.evaluate.latency import Latency, measure_latency
from components.evaluate.window import TestWindow
from millrace.installed import Workload
from millrace.judge.bootstrap import Interval, Statistic, difference, interval, unit_weights, with_intervals
from millrace.judge.ranking import (
    Judged,
    ProtocolMetrics,
    average_precision,
    judged_metrics,
    roc_auc,
    unit_precision,
)
from millrace.judge.rows import Floats, Mask
from millrace.observe.progress import track
from millrace.registry.model_artifact import ModelArtifact

SLICE_RESAMPLES: Final = 60


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What the model's own decision threshold does on the judged rows."""

    threshold: float
    precision: float
    recall: float
    flagged_units_per_day: float
    confusion: tuple[tuple[int, int], tuple[int, int]]
    """Rows negative, positive; columns passed, flagged."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model less another, on the same rows and resamples."""

    gain: Interval
    """In average precision."""
    unit_precision: Interval | None
    other: dict[str, float]
    """The other's own figures."""


@dataclass(frozen=True, slots=True)
class Champion:
    """The comparison with the model that serves now, or why there is none."""

    id: str
    comparison: Comparison | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class SliceFigures:
    rows: int
    positives: int
    auc_roc: Interval
    average_precision: float
    recall: float | None
    """At the decision threshold."""


@dataclass(frozen=True, slots=True)
class StressFigures:
    average_precision: float
    kept: float
    """Of what the same rows with good inputs have above chance: 1 is nothing lost, 0 is guessing."""
    mean_change: float
    """Mean absolute change of a score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the gate, the report and the model card are made from."""

    protocol: ProtocolMetrics
    figures: dict[str, Interval]
    baselines: dict[str, Comparison]
    champion: Champion | None
    slices: dict[str, SliceFigures]
    stresses: dict[str, StressFigures]
    latency: Latency
    baseline_parameters: dict[str, Any]
    perfect_unit_precision: float | None = None
    """Unit precision of a perfect ranking on the same days."""
    at_threshold: AtThreshold | None = None
    attacks: dict[str, AttackFigures]
    review_capacity: int | None = None
    cascade: CascadeFigures | None = None
    """Where the model has a cheap first stage in use."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON: a figure that does not exist is null."""
        document: dict[str, Any] = plain(asdict(self))
        return document


def at_threshold(rows: Judged, scores: Floats, threshold: float) -> AtThreshold:
    """Precision, recall and daily load of flagging every score at or above `threshold`."""
    flagged = scores >= threshold
    caught, positives = int((flagged & rows.label).sum()), int(rows.label.sum())
    alarms, days = int(flagged.sum()), len(np.unique(rows.day))
    units = len(np.unique(np.stack([rows.day[flagged], rows.unit[flagged]]), axis=1).T)
    return AtThreshold(
        threshold,
        caught / alarms if alarms else math.nan,
        caught / positives if positives else math.nan,
        units / days if days else math.nan,
        ((len(rows) - positives - (alarms - caught), alarms - caught), (positives - caught, caught)),
    )


def compare(rows: Judged, scores: Floats, other: Floats, weights: Floats, k: int | None) -> Comparison:
    """The model's gain over another's scores on the same rows."""
    return Comparison(
        difference(rows, scores, other, weights, average_precision),
        None if k is None else difference(rows, scores, other, weights, _at(k)),
        judged_metrics(rows, other, k).figures,
    )


def measure_slices(
    rows: Judged, scores: Floats, masks: Mapping[str, Mask], threshold: float | None, seed: int
) -> dict[str, SliceFigures]:
    """Figures of each slice that has rows; masks[J]."""
    weights, found = unit_weights(rows, SLICE_RESAMPLES, seed), {}
    for name, mask in masks.items():
        part, part_scores = rows.where(mask), scores[mask]
        if len(part):
            auc = interval(roc_auc(part, part_scores).item(), roc_auc(part, part_scores, weights))
            ap = average_precision(part, part_scores).item()
            recall = None if threshold is None else at_threshold(part, part_scores, threshold).recall
            found[name] = SliceFigures(len(part), int(part.label.sum()), auc, ap, recall)
    return found


def measure_stresses(
    model: ModelArtifact, window: TestWindow[Judged], rows: int, seed: int
) -> dict[str, StressFigures]:
    """Score every positive and a sample of negative rows, `rows` in all, under each stress of the workload."""
    judging = window.data.workload.judging
    chosen = _stress_sample(window.judged.label, rows, seed)
    usual_events, judged = judging.what_if(window.data, window.judged_rows[chosen]), window.judged.where(chosen)
    length = model.spec.sequence_length
    clean = model.score(*usual_events.tensors(length)).astype(np.float64)
    chance = float(judged.label.mean())
    usual = average_precision(judged, clean).item() - chance
    found = {}
    for name, stress in track(judging.STRESSES.items(), "stress tests"):
        scores = model.score(*stress(usual_events).tensors(length)).astype(np.float64)
        value = average_precision(judged, scores).item()
        kept = (value - chance) / usual if usual > 0 else math.nan
        found[name] = StressFigures(value, kept, float(np.abs(scores - clean).mean()))
    return found


def gather(
    window: TestWindow[Judged],
    scores: Floats,
    model: ModelArtifact,
    baselines: Mapping[str, Baseline],
    champion: tuple[str, Floats | str] | None,
    masks: Mapping[str, Mask],
    limits: ClassLimits,
    capacity: int,
    seed: int = 0,
) -> Evidence:
    """Measure everything. scores[J] on the judged rows; masks[J]; `champion` is its id and scores[J], or why none.

    `capacity` is how many units are reviewed a day; it does not matter where nothing is reviewed.
    """
    rows, workload = window.judged, window.data.workload
    reviewed = limits if isinstance(limits, RankingLimits) else None
    k = None if reviewed is None else capacity
    threshold = None if reviewed is None else model.decision_threshold
    weights = unit_weights(rows, limits.resamples, seed)
    perfect = None if k is None else unit_precision(rows, rows.label.astype(np.float64), k).item()
    return Evidence(
        protocol=judged_metrics(rows, scores, k),
        figures=with_intervals(rows, scores, weights, k, 0.0 if reviewed is None else reviewed.review_cost),
        perfect_unit_precision=perfect,
        at_threshold=None if threshold is None else at_threshold(rows, scores, threshold),
        baselines={name: compare(rows, scores, b.scores[window.counts], weights, k) for name, b in baselines.items()},
        champion=_champion(rows, scores, champion, weights, k),
        slices=measure_slices(rows, scores, masks, threshold, seed),
        stresses=measure_stresses(model, window, limits.stress_rows, seed),
        attacks={} if reviewed is None else _attacks(workload, model, window),
        latency=measure_latency(model, window.data, window.rows, limits.latency_calls),
        review_capacity=k,
        baseline_parameters={name: b.parameters for name, b in baselines.items()},
        cascade=measure_cascade(model, window, scores, weights),
    )


def _attacks(workload: Workload, model: ModelArtifact, window: TestWindow[Judged]) -> dict[str, AttackFigures]:
    attacked = workload.judging.what_if(window.data, window.judged_rows[window.judged.label])
    return measure_attacks(model, workload.ranked.ATTACKS, attacked)


def _at(k: int) -> Statistic:
    def statistic(rows: Judged, scores: Floats, weights: Floats | None) -> Floats:
        return unit_precision(rows, scores, k, weights)

    return statistic


def _champion(
    rows: Judged, scores: Floats, champion: tuple[str, Floats | str] | None, weights: Floats, k: int | None
) -> Champion | None:
    if champion is None:
        return None
    identity, other = champion
    if isinstance(other, str):
        return Champion(identity, None, other)
    return Champion(identity, compare(rows, scores, other, weights, k))


def _stress_sample(label: NDArray[np.bool_], rows: int, seed: int) -> NDArray[np.int64]:
    """Positions, in order: every positive, but half of `rows` at most, and as many random negatives as make them up."""
    positives, negatives = np.flatnonzero(label), np.flatnonzero(~label)
    rng = np.random.default_rng(seed)
    if len(positives) > rows // 2:
        positives = rng.choice(positives, rows // 2, replace=False)
    size = min(max(rows - len(positives), 1), len(negatives))
    return np.sort(np.concatenate([positives, rng.choice(negatives, size, replace=False)]))
