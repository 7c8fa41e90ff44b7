"""Everything that is measured about a model on its test week. Scores in, figures out; the rules read nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.evaluate.adversary import AttackFigures, measure_attacks
from components.evaluate.baselines import Baseline
from components.evaluate.cascade import CascadeFigures, measure_cascade
from components.evaluate.config import EvaluateConfig
from components.evaluate.inputs import inputs_of
from components.evaluate.stress import STRESSES
from components.evaluate.test_week import TestWeek
from millrace.judge.bootstrap import Interval, difference, interval, unit_weights, with_intervals
from millrace.judge.ranking import Judged, ProtocolMetrics, average_precision, judged_metrics, roc_auc, unit_precision
from millrace.judge.rows import Floats, Mask
from millrace.observe.progress import track
from millrace.registry.model_artifact import ModelArtifact, load_graph

WARM_UP_CALLS: Final = 30
SLICE_RESAMPLES: Final = 60


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What the model's own decision threshold does on the judged rows."""

    threshold: float
    precision: float
    recall: float
    flagged_units_per_day: float
    confusion: tuple[tuple[int, int], tuple[int, int]]
    """Rows genuine, fraud; columns passed, flagged."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model less another, on the same rows and resamples."""

    average_precision: Interval
    unit_precision: Interval
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
    frauds: int
    auc_roc: Interval
    average_precision: float
    recall: float
    """At the decision threshold."""


@dataclass(frozen=True, slots=True)
class StressFigures:
    average_precision: float
    kept: float
    """Of what the same rows with good inputs have above chance: 1 is nothing lost, 0 is guessing."""
    mean_change: float
    """Mean absolute change of a score."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one single-row call."""

    p50_ms: float
    p99_ms: float
    calls: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the gate, the report and the model card are made from."""

    protocol: ProtocolMetrics
    figures: dict[str, Interval]
    perfect_unit_precision: float
    """Card precision of a perfect ranking on the same days."""
    at_threshold: AtThreshold
    baselines: dict[str, Comparison]
    champion: Champion | None
    slices: dict[str, SliceFigures]
    stresses: dict[str, StressFigures]
    attacks: dict[str, AttackFigures]
    latency: Latency
    review_capacity: int
    baseline_parameters: dict[str, Any] = field(default_factory=dict)
    cascade: CascadeFigures | None = None
    """Where the model has a cheap first stage in use."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON: a figure that does not exist is null."""
        document: dict[str, Any] = _plain(asdict(self))
        return document


def at_threshold(rows: Judged, scores: Floats, threshold: float) -> AtThreshold:
    """Precision, recall and daily load of flagging every score at or above `threshold`."""
    flagged = scores >= threshold
    caught, frauds = int((flagged & rows.label).sum()), int(rows.label.sum())
    alarms, days = int(flagged.sum()), len(np.unique(rows.day))
    cards = len(np.unique(np.stack([rows.day[flagged], rows.unit[flagged]]), axis=1).T)
    return AtThreshold(
        threshold,
        caught / alarms if alarms else math.nan,
        caught / frauds if frauds else math.nan,
        cards / days if days else math.nan,
        ((len(rows) - frauds - (alarms - caught), alarms - caught), (frauds - caught, caught)),
    )


def compare(rows: Judged, scores: Floats, other: Floats, weights: Floats, k: int) -> Comparison:
    """The model's gain over another's scores on the same rows."""

    def precision_at_k(rows: Judged, scores: Floats, weights: Floats | None) -> Floats:
        return unit_precision(rows, scores, k, weights)

    metrics = judged_metrics(rows, other, k)
    return Comparison(
        difference(rows, scores, other, weights, average_precision),
        difference(rows, scores, other, weights, precision_at_k),
        {name: getattr(metrics, name) for name in ("auc_roc", "average_precision", "unit_precision")},
    )


def measure_slices(
    rows: Judged, scores: Floats, masks: Mapping[str, Mask], threshold: float, seed: int
) -> dict[str, SliceFigures]:
    """Figures of each slice that has rows; masks[J]."""
    weights, found = unit_weights(rows, SLICE_RESAMPLES, seed), {}
    for name, mask in masks.items():
        part, part_scores = rows.where(mask), scores[mask]
        if len(part):
            auc = interval(roc_auc(part, part_scores).item(), roc_auc(part, part_scores, weights))
            ap = average_precision(part, part_scores).item()
            recall = at_threshold(part, part_scores, threshold).recall
            found[name] = SliceFigures(len(part), int(part.label.sum()), auc, ap, recall)
    return found


def measure_stresses(model: ModelArtifact, week: TestWeek, rows: int, seed: int) -> dict[str, StressFigures]:
    """Score every fraud and a sample of genuine rows, `rows` in all, under each stress."""
    chosen = _stress_sample(week.judged.label, rows, seed)
    inputs, judged = inputs_of(week.data, week.judged_rows[chosen]), week.judged.where(chosen)
    length = model.spec.sequence_length
    clean = model.score(*inputs.tensors(length)).astype(np.float64)
    chance = float(judged.label.mean())
    usual = average_precision(judged, clean).item() - chance
    found = {}
    for name, stress in track(STRESSES.items(), "stress tests"):
        scores = model.score(*stress(inputs).tensors(length)).astype(np.float64)
        value = average_precision(judged, scores).item()
        kept = (value - chance) / usual if usual > 0 else math.nan
        found[name] = StressFigures(value, kept, float(np.abs(scores - clean).mean()))
    return found


def measure_latency(graph: Path, model: ModelArtifact, week: TestWeek, calls: int) -> Latency:
    """CPU time of single rows through the served graph: ONNX Runtime, in this thread, warm."""
    session = load_graph(graph, threads=1)
    rows = week.rows[np.linspace(0, len(week.rows) - 1, calls + WARM_UP_CALLS).astype(int)]
    features, history = week.data.batch(rows, model.spec.sequence_length)
    times = np.empty(len(rows))
    for i in range(len(rows)):
        start = time.thread_time()
        session.run(["score"], {"features": features[i : i + 1], "history": history[i : i + 1]})
        times[i] = time.thread_time() - start
    p50, p99 = np.quantile(1000 * times[WARM_UP_CALLS:], [0.5, 0.99])
    return Latency(float(p50), float(p99), calls)


def gather(
    week: TestWeek,
    scores: Floats,
    model: ModelArtifact,
    baselines: Mapping[str, Baseline],
    champion: tuple[str, Floats | str] | None,
    masks: Mapping[str, Mask],
    config: EvaluateConfig,
    k: int,
    seed: int = 0,
) -> Evidence:
    """Measure everything. scores[J] on the judged rows; masks[J]; `champion` is its id and scores[J], or why none."""
    rows = week.judged
    weights = unit_weights(rows, config.resamples, seed)
    return Evidence(
        protocol=judged_metrics(rows, scores, k),
        figures=with_intervals(rows, scores, weights, k, config.review_cost),
        perfect_unit_precision=unit_precision(rows, rows.label.astype(np.float64), k).item(),
        at_threshold=at_threshold(rows, scores, model.decision_threshold),
        baselines={name: compare(rows, scores, b.scores[week.counts], weights, k) for name, b in baselines.items()},
        champion=_champion(rows, scores, champion, weights, k),
        slices=measure_slices(rows, scores, masks, model.decision_threshold, seed),
        stresses=measure_stresses(model, week, config.stress_rows, seed),
        attacks=measure_attacks(model, inputs_of(week.data, week.judged_rows[rows.label])),
        latency=measure_latency(model.manifest.path(str(model.spec.served_file)), model, week, config.latency_calls),
        review_capacity=k,
        baseline_parameters={name: b.parameters for name, b in baselines.items()},
        cascade=measure_cascade(model, week, scores, weights),
    )


def _champion(
    rows: Judged, scores: Floats, champion: tuple[str, Floats | str] | None, weights: Floats, k: int
) -> Champion | None:
    if champion is None:
        return None
    identity, other = champion
    if isinstance(other, str):
        return Champion(identity, None, other)
    return Champion(identity, compare(rows, scores, other, weights, k))


def _stress_sample(label: NDArray[np.bool_], rows: int, seed: int) -> NDArray[np.int64]:
    """Positions, in order: every fraud and as many random genuine rows as make up `rows`."""
    frauds, genuine = np.flatnonzero(label), np.flatnonzero(~label)
    size = min(max(rows - len(frauds), 1), len(genuine))
    return np.sort(np.concatenate([frauds, np.random.default_rng(seed).choice(genuine, size, replace=False)]))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
