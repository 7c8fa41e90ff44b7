"""A sequential test on a model's loss: has it grown since the model was judged? Losses by day in, evidence out.

An e-detector of the Shiryaev–Roberts kind (Shin, Ramdas, Rinaldo 2023, "E-detectors"). Before a change, each loss x in
[0, 1] has a mean of at most m, so a bet 1 + λ(x − m) has a mean of at most 1, and with it the product of a day's bets.
Evidence M ← (M + 1) × that product then grows by at most one a day on average: whatever the distribution of losses, the
mean time until it reaches A is at least A days. Several λ are bet side by side; the mean of detectors is a detector.
What it rests on: losses of different cards are not correlated given the past, and m bounds the old mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

from millrace.errors import InvalidInput
from millrace.judge.bootstrap import interval, unit_weights
from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats, ratio

BETS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""λ: small ones notice a small growth of every loss, large ones a few new losses that are large."""
LOSS_CAP: Final = 30.0
"""Nats: what one card can lose on one day; about four frauds that the model was sure were none."""
SCORE_FLOOR: Final = 1e-4
"""A score is taken to be at least this far from 0 and 1."""
LOG_LIMIT: Final = 600.0
"""Evidence is kept below e^600, where floats still are."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The loss of the model when it was good."""

    mean: float
    """Of a card's day, in shares of LOSS_CAP."""
    bound: float
    """m: above it, the model has decayed."""
    unit_days: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one day: against `the model is as good as it was`."""

    day: date
    value: float
    """1 is nothing; the alarm is at the mean number of days between false alarms."""
    mean_loss: float
    unit_days: int


def unit_day_losses(rows: Judged, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """(loss, card, day) of every card's day: its log-losses summed, capped, in [0, 1]; raises InvalidInput for NaN."""
    if not np.isfinite(scores).all():
        raise InvalidInput("a score is not finite. Score every row.")
    p = np.clip(scores, SCORE_FLOOR, 1 - SCORE_FLOOR)
    loss = -np.where(rows.label, np.log(p), np.log1p(-p))
    days, day = np.unique(rows.day, return_inverse=True)
    group, place = np.unique(day * max(rows.units, 1) + rows.unit, return_inverse=True)
    total = np.bincount(place, loss, len(group))
    return np.minimum(total, LOSS_CAP) / LOSS_CAP, group % max(rows.units, 1), days[group // max(rows.units, 1)]


def baseline(rows: Judged, scores: Floats, tolerance: float, resamples: int = 200, seed: int = 0) -> Baseline:
    """What the losses of a reference allow: the upper end of their mean's 95 % interval, and `tolerance` more.

    Raises InvalidInput for a reference without a fraud: nothing can be learned about losses from it.
    """
    if not rows.label.any():
        raise InvalidInput(f"the reference has {len(rows)} rows and no fraud. Take a longer one.")
    loss, card, _ = unit_day_losses(rows, scores)
    by_card = np.stack([np.bincount(card.astype(np.int64), x, rows.units) for x in (loss, np.ones(len(loss)))])
    total, count = (unit_weights(rows, resamples, seed) @ by_card.T).T
    mean = interval(float(loss.mean()), ratio(total, count))
    return Baseline(mean.value, float(np.nanmax([mean.high, mean.value]) * (1 + tolerance)), len(loss))


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


def watch(rows: Judged, scores: Floats, reference: Baseline) -> Iterable[Evidence]:
    """The evidence of every day of `rows`, in order."""
    detector = LossDetector(reference.bound)
    loss, _, day = unit_day_losses(rows, scores)
    for today in np.unique(day):
        losses = loss[day == today]
        evidence = detector.update(losses)
        yield Evidence(date.fromordinal(_EPOCH + int(today)), evidence, float(losses.mean()), len(losses))


_EPOCH: Final = date(1970, 1, 1).toordinal()
