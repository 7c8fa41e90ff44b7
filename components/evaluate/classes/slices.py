"""A model of classes in each slice of the judged rows, beside another's scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.evaluate.classes.relative import auc_loss
from components.evaluate.classes.threshold import at_threshold
from components.evaluate.evidence import SLICE_RESAMPLES
from millrace.judge.bootstrap import Interval, interval, unit_weights
from millrace.judge.ranking import Judged, average_precision, roc_auc
from millrace.judge.rows import Floats, Mask


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
