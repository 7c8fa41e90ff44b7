"""Everything that is measured about a model of a quantity. Predictions in, figures out; the rules read nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from components.evaluate.config import QuantityLimits
from components.evaluate.examination import plain
from components.evaluate.latency import Latency, measure_latency
from components.evaluate.quantity.baselines import XGBOOST, Baseline
from components.evaluate.window import TestWindow, model_answers
from millrace.judge.bootstrap import Interval, interval, unit_weights
from millrace.judge.regression import Measured, Predictions, bias, coverage, figures, mae, with_intervals
from millrace.judge.rows import Floats, Mask, ratio
from millrace.observe.progress import track
from millrace.registry.model_artifact import ModelArtifact

SLICE_RESAMPLES: Final = 60


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model against another, on the same rows and resamples."""

    gain: Interval
    """Share of the other's MAE that the model saves: 0 is no better, 1 is perfect."""
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
    mae: Interval
    mae_ratio: Interval
    """MAE over that of XGBoost on the same rows: a slice that is hard for everybody is nobody's fault."""
    bias: float
    coverage: float


@dataclass(frozen=True, slots=True)
class StressFigures:
    mae: float
    growth: float
    """MAE over that of the same rows with good inputs: 1 is nothing lost."""
    mean_change: float
    """Mean absolute change of a prediction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the gate, the report and the model card are made from."""

    rows: int
    units: int
    figures: dict[str, Interval]
    spread: float
    """Width of the interval around the middle of all truths that holds as many of them as the model's intervals."""
    baselines: dict[str, Comparison]
    champion: Champion | None
    slices: dict[str, SliceFigures]
    stresses: dict[str, StressFigures]
    latency: Latency
    baseline_parameters: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: a figure that does not exist is null."""
        document: dict[str, Any] = plain(asdict(self))
        return document


def compare(rows: Measured, own: Predictions, other: Predictions, weights: Floats) -> Comparison:
    """What the model saves of another's error on the same rows."""
    return Comparison(_saved(rows, own, other, weights), figures(rows, other))


def measure_slices(
    rows: Measured, own: Predictions, reference: Predictions, masks: Mapping[str, Mask], seed: int
) -> dict[str, SliceFigures]:
    """Figures of each slice that has rows, beside those of `reference`; masks[J]."""
    weights, found = unit_weights(rows, SLICE_RESAMPLES, seed), {}
    for name, mask in masks.items():
        part, mine, theirs = rows.where(mask), own.where(mask), reference.where(mask)
        if not len(part):
            continue
        error, drawn = mae(part, mine), mae(part, mine, weights)
        found[name] = SliceFigures(
            len(part),
            interval(error.item(), drawn),
            interval(ratio(error, mae(part, theirs)).item(), ratio(drawn, mae(part, theirs, weights))),
            bias(part, mine).item(),
            coverage(part, mine).item(),
        )
    return found


def measure_stresses(
    model: ModelArtifact, window: TestWindow[Measured], rows: int, seed: int
) -> dict[str, StressFigures]:
    """Predict a sample of `rows` judged rows under each stress of the workload; a stress may change the truth too."""
    judging = window.data.workload.judging
    size = min(rows, len(window.judged))
    chosen = np.sort(np.random.default_rng(seed).choice(len(window.judged), size, replace=False))
    events = judging.what_if(window.data, window.judged_rows[chosen])
    length = model.spec.sequence_length
    clean = model_answers(model, *events.tensors(length)).point
    usual = float(np.abs(clean - events.label).mean())
    found = {}
    for name, stress in track(judging.STRESSES.items(), "stress tests"):
        changed = stress(events)
        answered = model_answers(model, *changed.tensors(length)).point
        error = float(np.abs(answered - changed.label).mean())
        found[name] = StressFigures(
            error, error / usual if usual > 0 else np.nan, float(np.abs(answered - clean).mean())
        )
    return found


def gather(
    window: TestWindow[Measured],
    own: Predictions,
    model: ModelArtifact,
    baselines: Mapping[str, Baseline],
    champion: tuple[str, Predictions | str] | None,
    masks: Mapping[str, Mask],
    limits: QuantityLimits,
    seed: int = 0,
) -> Evidence:
    """Measure everything. own[J] on the judged rows; masks[J]; `champion` is its id and predictions[J], or why none."""
    rows = window.judged
    weights = unit_weights(rows, limits.resamples, seed)
    judged = {name: baseline.predictions.where(window.counts) for name, baseline in baselines.items()}
    return Evidence(
        rows=len(rows),
        units=len(np.unique(rows.unit)),
        figures=with_intervals(rows, own, weights),
        spread=_spread(rows.truth, coverage(rows, own).item()),
        baselines={name: compare(rows, own, other, weights) for name, other in judged.items()},
        champion=_champion(rows, own, champion, weights),
        slices=measure_slices(rows, own, judged[XGBOOST], masks, seed),
        stresses=measure_stresses(model, window, limits.stress_rows, seed),
        latency=measure_latency(model, window.data, window.rows, limits.latency_calls),
        baseline_parameters={name: baseline.parameters for name, baseline in baselines.items()},
    )


def _saved(rows: Measured, own: Predictions, other: Predictions, weights: Floats) -> Interval:
    value = 1 - ratio(mae(rows, own), mae(rows, other)).item()
    return interval(value, 1 - ratio(mae(rows, own, weights), mae(rows, other, weights)))


def _champion(
    rows: Measured, own: Predictions, champion: tuple[str, Predictions | str] | None, weights: Floats
) -> Champion | None:
    if champion is None:
        return None
    identity, other = champion
    if isinstance(other, str):
        return Champion(identity, None, other)
    return Champion(identity, compare(rows, own, other, weights))


def _spread(truth: Floats, share: float) -> float:
    """Width of the central interval of all truths that holds a `share` of them; NaN where there is none."""
    if not len(truth) or not np.isfinite(share):
        return float("nan")
    low, high = np.quantile(truth, [(1 - share) / 2, (1 + share) / 2])
    return float(high - low)
