"""Everything that is measured about a model of a quantity. Predictions in, figures out; the rules read nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from components.evaluate import evidence
from components.evaluate.baselines import XGBOOST, Answer, Baseline
from components.evaluate.config import QuantityLimits
from components.evaluate.evidence import SLICE_RESAMPLES, Comparison, against, asked, best_feature, under_stress
from components.evaluate.latency import measure_latency
from components.evaluate.window import Rival, TestWindow
from millrace.judge.bootstrap import Interval, interval, unit_weights
from millrace.judge.regression import (
    Measured,
    Predictions,
    bias,
    coverage,
    figures,
    mae,
    rank_correlation,
    with_intervals,
)
from millrace.judge.rows import Floats, Mask, ratio
from millrace.registry.model_artifact import ModelArtifact
from millrace.workload import WhatIf


@dataclass(frozen=True, slots=True)
class SliceFigures:
    """The model on the rows of one slice."""

    rows: int
    mae: Interval
    mae_ratio: Interval
    """MAE over that of XGBoost on the same rows: a slice that is hard for everybody is nobody's fault."""
    bias: float
    coverage: float


@dataclass(frozen=True, slots=True)
class StressFigures:
    """The model on a bad day."""

    mae: float
    growth: float
    """MAE over that of the same rows with good inputs: 1 is nothing lost."""
    mean_change: float
    """Mean absolute change of a prediction."""
    over_xgboost: float | None = None
    """`growth` over that of XGBoost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence(evidence.Evidence[Comparison, SliceFigures, StressFigures]):
    """What is measured about a quantity besides."""

    rows: int
    units: int
    spread: float
    """Width of the interval around the middle of all truths that holds as many of them as the model's intervals."""


def compare(rows: Measured, own: Predictions, other: Predictions, weights: Floats) -> Comparison:
    """What the model saves of another's error on the same rows: a gain of 0 is no better, 1 is perfect."""
    value = 1 - ratio(mae(rows, own), mae(rows, other)).item()
    draws = 1 - ratio(mae(rows, own, weights), mae(rows, other, weights))
    return Comparison(gain=interval(value, draws), other=figures(rows, other))


def measure_slices(
    rows: Measured, own: Predictions, reference: Predictions, masks: Mapping[str, Mask], seed: int
) -> dict[str, SliceFigures]:
    """Figures of each slice that has rows, beside those of `reference`; masks[J]."""
    weights = unit_weights(rows, SLICE_RESAMPLES, seed)
    found = {}
    for name, mask in masks.items():
        part = rows.where(mask)
        if not len(part):
            continue

        mine = own.where(mask)
        theirs = reference.where(mask)
        error = mae(part, mine)
        drawn = mae(part, mine, weights)
        found[name] = SliceFigures(
            rows=len(part),
            mae=interval(error.item(), drawn),
            mae_ratio=interval(ratio(error, mae(part, theirs)).item(), ratio(drawn, mae(part, theirs, weights))),
            bias=bias(part, mine).item(),
            coverage=coverage(part, mine).item(),
        )
    return found


def measure_stresses(
    model: ModelArtifact, window: TestWindow[Measured], rows: int, seed: int, reference: Answer | None = None
) -> dict[str, StressFigures]:
    """Predict a sample of `rows` judged rows under each stress of the workload; a stress may change the truth too.

    Where there is a `reference`, it is asked the same.
    """
    workload = window.data.workload
    size = min(rows, len(window.judged))
    chosen = np.sort(np.random.default_rng(seed).choice(len(window.judged), size, replace=False))
    events = workload.judging.what_if(window.data, window.judged_rows[chosen])
    clean = asked(model, events).point
    usual = float(np.abs(clean - events.label).mean())

    length = model.spec.sequence_length

    def error_of(events: WhatIf) -> float:
        if reference is None:
            return np.nan
        return float(np.abs(reference(events.tensors(length)[0]) - events.label).mean())

    theirs = error_of(events)
    found = {}
    for name, changed, answered in under_stress(model, workload, events):
        error = float(np.abs(answered.point - changed.label).mean())
        found[name] = StressFigures(
            mae=error,
            growth=error / usual if usual > 0 else np.nan,
            over_xgboost=_over(error, usual, error_of(changed), theirs) if reference is not None else None,
            mean_change=float(np.abs(answered.point - clean).mean()),
        )
    return found


def _over(error: float, usual: float, other: float, others_usual: float) -> float:
    """How many times larger an error becomes, over how many times another's does; NaN where that means nothing."""
    return error / usual / (other / others_usual) if min(usual, other, others_usual) > 0 else np.nan


def _skill(truth: Floats, values: NDArray[np.float32]) -> float:
    """Of one feature, either way: its rank correlation with the truth."""
    return rank_correlation(np.nan_to_num(values), truth)


def gather(
    window: TestWindow[Measured],
    own: Predictions,
    model: ModelArtifact,
    baselines: Mapping[str, Baseline],
    rival: Rival | None,
    masks: Mapping[str, Mask],
    limits: QuantityLimits,
    seed: int = 0,
) -> Evidence:
    """Measure everything: own[J] of the judged rows, masks[J] of slices, and the model that serves now."""
    rows = window.judged
    weights = unit_weights(rows, limits.resamples, seed)
    others = {name: baseline.answers.where(window.counts) for name, baseline in baselines.items()}

    def compared(other: Predictions) -> Comparison:
        return compare(rows, own, other, weights)

    return Evidence(
        rows=len(rows),
        units=len(np.unique(rows.unit)),
        figures=with_intervals(rows, own, weights),
        spread=_spread(rows.truth, coverage(rows, own).item()),
        baselines={name: compared(other) for name, other in others.items()},
        champion=against(rival, compared),
        slices=measure_slices(rows, own, others[XGBOOST], masks, seed),
        stresses=measure_stresses(
            model,
            window,
            limits.stress_rows,
            seed,
            baselines[XGBOOST].answer if limits.max_stress_growth_over_xgboost is not None else None,
        ),
        best_feature=best_feature(partial(_skill, rows.truth), window.data, window.judged_rows),
        latency=measure_latency(model, window.data, window.rows, limits.latency_calls),
        baseline_parameters={name: baseline.parameters for name, baseline in baselines.items()},
    )


def _spread(truth: Floats, share: float) -> float:
    """Width of the central interval of all truths that holds a `share` of them; NaN where there is none."""
    if not len(truth) or not np.isfinite(share):
        return float("nan")
    low, high = np.quantile(truth, [(1 - share) / 2, (1 + share) / 2])
    return float(high - low)
