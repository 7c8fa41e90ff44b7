"""A sequential test on a model's loss: has it grown since the model was judged? Losses by day in, evidence out.

An e-detector of the Shiryaev–Roberts kind (Shin, Ramdas, Rinaldo 2023, "E-detectors"). Before a change, each loss x in
[0, 1] has a mean of at most m, so a bet 1 + λ(x − m) has a mean of at most 1, and with it the product of a day's bets.
Evidence M ← (M + 1) × that product then grows by at most one a day on average: whatever the distribution of losses, the
mean time until it reaches A is at least A days. Several λ are bet side by side; the mean of detectors is a detector.
What it rests on: losses of different units are not correlated given the past, and m bounds the old mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from millrace.instants import date_of
from millrace.judge.bootstrap import interval, unit_weights
from millrace.judge.ranking import Judged
from millrace.judge.regression import Measured, Predictions
from millrace.judge.rows import Floats, ratio

BETS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""λ: small ones notice a small growth of every loss, large ones a few new losses that are large."""
LOSS_CAP: Final = 30.0
"""Nats: what one unit can lose on one day; about four positives that the model was sure were none."""
SCORE_FLOOR: Final = 1e-4
"""A score is taken to be at least this far from 0 and 1."""
LOG_LIMIT: Final = 600.0
"""Evidence is kept below e^600, where floats still are."""


@dataclass(frozen=True, slots=True)
class Losses:
    """One entry per unit and day, in the order of days."""

    loss: Floats
    """In [0, 1]."""
    unit: NDArray[np.int64]
    day: NDArray[np.int64]
    """Days since 1970."""
    units: int

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True, slots=True)
class Baseline:
    """The loss of the model when it was good."""

    mean: float
    """Mean loss of a unit's day, in [0, 1]."""
    bound: float
    """m: above it, the model has decayed."""
    unit_days: int
    scale: float = 1.0
    """The error of a quantity that loses a half, in the label's unit."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of one day against `the model is as good as it was`."""

    day: date
    value: float
    """1 is nothing; the alarm is at the mean number of days between false alarms."""
    mean_loss: float
    unit_days: int


def class_losses(rows: Judged, scores: Floats) -> Losses:
    """Log-losses of a class, summed over a unit's day, in shares of LOSS_CAP; raises InvalidInput for NaN."""
    if not np.isfinite(scores).all():
        raise InvalidInput("a score is not finite. Score every row.")
    p = np.clip(scores, SCORE_FLOOR, 1 - SCORE_FLOOR)
    loss = -np.where(rows.label, np.log(p), np.log1p(-p))
    total, _, unit, day = _by_unit_and_day(rows, loss)
    return Losses(np.minimum(total, LOSS_CAP) / LOSS_CAP, unit, day, rows.units)


def quantity_losses(rows: Measured, predictions: Predictions, scale: float) -> Losses:
    """Errors of a quantity as error / (error + scale), averaged over a unit's day; raises InvalidInput for NaN."""
    if not np.isfinite(predictions.point).all():
        raise InvalidInput("a prediction is not finite. Predict every row.")
    error = np.abs(predictions.point - rows.truth)
    total, count, unit, day = _by_unit_and_day(rows, error / (error + scale))
    return Losses(total / count, unit, day, rows.units)


def _by_unit_and_day(
    rows: Judged | Measured, loss: Floats
) -> tuple[NDArray[Any], Floats, NDArray[np.int64], NDArray[np.int64]]:
    """(sum, rows, unit, day) of every unit's day."""
    days, day = np.unique(rows.day, return_inverse=True)
    group, place = np.unique(day * max(rows.units, 1) + rows.unit, return_inverse=True)
    total, count = np.bincount(place, loss, len(group)), np.bincount(place, minlength=len(group)).astype(np.float64)
    return total, count, group % max(rows.units, 1), days[group // max(rows.units, 1)]


def baseline(
    losses: Losses,
    tolerance: float,
    *,
    scale: float = 1.0,
    days_apart: float = 0.0,
    resamples: int = 200,
    seed: int = 0,
) -> Baseline:
    """What the losses of a reference allow: the upper end of their mean's 95 % interval, and `tolerance` more.

    Where a day sways all its events, at least the mean and `days_apart` standard deviations of the days' means.
    """
    by_unit = np.stack([np.bincount(losses.unit, x, losses.units) for x in (losses.loss, np.ones(len(losses)))])
    total, count = (unit_weights(losses, resamples, seed) @ by_unit.T).T
    mean = interval(float(losses.loss.mean()), ratio(total, count))
    bound = float(np.nanmax([mean.high, mean.value]) * (1 + tolerance))

    if days_apart:
        daily = [losses.loss[losses.day == day].mean() for day in np.unique(losses.day)]
        bound = max(bound, mean.value + days_apart * float(np.std(daily)))

    return Baseline(mean.value, min(bound, 1 - 1e-6), len(losses), scale)


class LossDetector:
    """Evidence over days; the state is a number per bet, so a stream may be cut anywhere and go on."""

    def __init__(self, bound: float, evidence: Floats | None = None) -> None:
        if not 0 < bound < 1:
            raise InvalidInput(f"the bound on the mean loss is {bound}; wanted it in (0, 1)")
        self.bound = bound
        bets = np.array(BETS)
        self._bets = bets[bets < 1 / bound]  # a bet must stay positive
        self.state = np.zeros(len(self._bets)) if evidence is None else evidence

    def update(self, losses: Floats) -> float:
        """Take one day's losses in [0, 1]; the evidence after it."""
        log_product = np.log1p(self._bets[:, None] * (losses[None, :] - self.bound)).sum(axis=1)
        self.state = np.exp(np.minimum(np.log1p(self.state) + log_product, LOG_LIMIT))
        return float(self.state.mean())


def watch(losses: Losses, reference: Baseline) -> Iterable[Evidence]:
    """The evidence of every day, in order."""
    detector = LossDetector(reference.bound)
    for today in np.unique(losses.day):
        ours = losses.loss[losses.day == today]
        evidence = detector.update(ours)
        yield Evidence(date_of(today), evidence, float(ours.mean()), len(ours))
