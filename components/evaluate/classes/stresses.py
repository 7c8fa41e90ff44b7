"""A model of classes on the bad days that its workload knows, beside another model on the same days."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.evaluate.baselines import Answer
from components.evaluate.classes.relative import kept_loss
from components.evaluate.evidence import SLICE_RESAMPLES, asked, under_stress
from components.evaluate.window import TestWindow
from millrace.judge.bootstrap import Interval, unit_weights
from millrace.judge.ranking import Judged, average_precision
from millrace.registry.model_artifact import ModelArtifact


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


def _stress_sample(label: NDArray[np.bool_], rows: int, seed: int) -> NDArray[np.int64]:
    """Positions, in order: every positive, but half of `rows` at most, and as many random negatives as make them up."""
    positives = np.flatnonzero(label)
    negatives = np.flatnonzero(~label)
    rng = np.random.default_rng(seed)
    if len(positives) > rows // 2:
        positives = rng.choice(positives, rows // 2, replace=False)
    size = min(max(rows - len(positives), 1), len(negatives))
    return np.sort(np.concatenate([positives, rng.choice(negatives, size, replace=False)]))
