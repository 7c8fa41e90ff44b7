"""What is measured on the validation rows: ranking and calibration of scores, latency of graphs, the review threshold.

Arrays in, figures out; no I/O.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.judge.bootstrap import Interval, difference, interval
from millrace.judge.calibration import calibration_error, reliability
from millrace.judge.ranking import Judged, average_precision
from millrace.judge.rows import Floats
from millrace.tabular.rows import Inputs

Scorer = Callable[..., NDArray[np.float32]]
"""features[B, F], and history[B, L, C] where the network reads one → scores[B]."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score from which a unit is reviewed, and what it stands on."""

    value: float
    review_capacity: int
    """Units a day that were asked for."""
    units_per_day: float
    """Median of the units a day that it selects on the validation days."""
    days: int
    scaled_down: bool
    """True where fewer units are active than the capacity is meant for: a share of them was taken instead."""

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def review_threshold(rows: Judged, scores: NDArray[np.float32], capacity: int, max_share: float) -> Threshold:
    """The score of the k-th unit of a day, median over days; k = `capacity`, at most `max_share` of the day's units.

    A unit's score is its highest of the day. The cap keeps a small world honest: 100 reviews a day are 3 % of the
    units active in a world of 5,000, and half of those in one of 300.
    """
    limits = []
    places = []
    best_of = [_best_scores(rows, scores, day) for day in np.unique(rows.day)]
    for best in best_of:
        k = min(capacity, math.ceil(max_share * len(best)))
        limits.append(best[k - 1])
        places.append(k)

    value = float(np.float32(np.median(limits)))
    selected = [int((best >= value).sum()) for best in best_of]
    return Threshold(value, capacity, float(np.median(selected)), len(best_of), min(places) < capacity)


def calibration(rows: Judged, scores: NDArray[np.float32]) -> dict[str, Any]:
    """How far the scores are probabilities: expected calibration error, mean score, share of positives, the curve."""
    values = scores.astype(np.float64)
    return {
        "expected_calibration_error": calibration_error(rows, values).item(),
        "mean_score": float(values.mean()),
        "positive_share": float(rows.label.mean()),
        "curve": reliability(rows, values),
    }


def ranking(rows: Judged, scores: NDArray[np.float32]) -> float | None:
    """Average precision; None where no validation row is positive."""
    value = average_precision(rows, scores.astype(np.float64)).item()
    return value if math.isfinite(value) else None


def ranking_interval(rows: Judged, scores: NDArray[np.float32], weights: Floats) -> Interval:
    """Average precision with its interval; weights[B, units] of `millrace.judge.bootstrap`."""
    values = scores.astype(np.float64)
    return interval(average_precision(rows, values).item(), average_precision(rows, values, weights))


def ranking_loss(rows: Judged, full: NDArray[np.float32], other: NDArray[np.float32], weights: Floats) -> Interval:
    """Average precision of `full` less that of `other`, on the same rows and resamples."""
    return difference(rows, full.astype(np.float64), other.astype(np.float64), weights, average_precision)


def latency_us(
    scorers: Mapping[str, Scorer], inputs: Inputs, batches: Sequence[int], repeats: int
) -> dict[str, dict[int, float]]:
    """Median microseconds of one call per scorer and batch size, of one thread's CPU: latency on an idle core.

    Time that a neighbour on the machine takes is not counted, and runs are interleaved, each on other rows, so that
    the caches he empties slow all alike.
    """
    taken: dict[str, dict[int, list[float]]] = {name: {b: [] for b in batches} for name in scorers}

    for batch in batches:
        for repeat in range(repeats):
            place = (np.arange(batch) + repeat * batch) % len(inputs[0])
            rows = [tensor[place] for tensor in inputs]
            for name, scorer in scorers.items():
                start = time.thread_time()
                scorer(*rows)
                taken[name][batch].append(time.thread_time() - start)

    return {
        name: {b: round(float(np.median(times)) * 1e6, 1) for b, times in sizes.items()}
        for name, sizes in taken.items()
    }


def _best_scores(rows: Judged, scores: NDArray[np.float32], day: int) -> NDArray[np.float32]:
    """Each unit's highest score of the day, from the highest down."""
    today = rows.day == day
    best = np.full(rows.units, -np.inf, np.float32)
    np.maximum.at(best, rows.unit[today], scores[today])
    return np.sort(best[np.isfinite(best)])[::-1]
