"""How a model of classes stands to guessing, and to XGBoost where it is hard: in slices, on bad days, under attack.

Rows and scores in, paired bootstrap intervals out. What is beyond everybody's reach is no fault of the model.
"""

from __future__ import annotations

import math

import numpy as np

from millrace.judge.bootstrap import Interval, interval
from millrace.judge.ranking import Judged, average_precision, roc_auc, unit_precision
from millrace.judge.rows import Floats, ratio, unit_sums


def positive_share(rows: Judged, weights: Floats | None = None) -> Floats:
    """Share of positives: the average precision of guessing. [B] in [0, 1]."""
    count, positives = unit_sums(rows.unit, rows.units, weights, [np.ones(len(rows)), rows.label])
    return ratio(positives, count)


def average_precision_lift(rows: Judged, scores: Floats, weights: Floats) -> Interval:
    """Average precision over that of guessing, both on the same resamples; 1 is guessing."""
    value = average_precision(rows, scores) / positive_share(rows)
    drawn = average_precision(rows, scores, weights) / positive_share(rows, weights)
    return interval(value.item(), drawn)


def random_unit_precision(rows: Judged, k: int, weights: Floats | None = None) -> Floats:
    """Unit precision that is expected of k units a day drawn at random. [B] in [0, 1]."""
    weights = np.ones((1, rows.units)) if weights is None else weights
    days = np.unique(rows.day)
    found = np.zeros(len(weights))
    for day in days:
        today = rows.day == day
        active = np.bincount(rows.unit[today], minlength=rows.units) > 0
        positive = np.bincount(rows.unit[today & rows.label], minlength=rows.units) > 0
        units = weights @ active
        found += np.nan_to_num(ratio(weights @ positive, units)) * np.minimum(units, k) / k
    return found / max(len(days), 1)


def unit_precision_lift(rows: Judged, scores: Floats, k: int, weights: Floats) -> Interval:
    """Unit precision over that of reviewing at random; 1 is no better."""
    value = ratio(unit_precision(rows, scores, k), random_unit_precision(rows, k))
    drawn = ratio(unit_precision(rows, scores, k, weights), random_unit_precision(rows, k, weights))
    return interval(value.item(), drawn)


def auc_loss(rows: Judged, scores: Floats, reference: Floats, weights: Floats) -> Interval:
    """AUC ROC of `reference` less the model's, on the same rows."""
    value = roc_auc(rows, reference) - roc_auc(rows, scores)
    return interval(value.item(), roc_auc(rows, reference, weights) - roc_auc(rows, scores, weights))


def kept_loss(
    rows: Judged, model: tuple[Floats, Floats], reference: tuple[Floats, Floats], weights: Floats
) -> Interval:
    """What the reference has left under a stress and the model has not, over what the better of both has on a good day.

    All in average precision, on a good day above guessing. Scores come as (on a good day, under the stress). 0 where
    nobody is better than guessing on a good day.
    """
    share = positive_share(rows).item()
    usual = max(average_precision(rows, scores).item() - share for scores in (model[0], reference[0]))

    def loss(w: Floats | None) -> Floats:
        left = average_precision(rows, reference[1], w) - average_precision(rows, model[1], w)
        return left / usual if usual > 0 else np.zeros_like(left)

    return interval(loss(None).item(), loss(weights))


def equally_busy(scores: Floats, threshold: float, reference: Floats) -> float:
    """The threshold at which `reference` raises as many alarms as the model does at its own."""
    alarms = int((scores >= threshold).sum())
    return math.inf if not alarms else float(np.sort(reference)[::-1][alarms - 1])
