"""Whether two revisions answer alike: the distribution of their scores, scores that never change, decisions.

None of this knows who is right; labels do (`labelled.py`), and where they are in, they decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from millrace.judge.stability import stability_index
from millrace.rollout.check import Check, difference, wilson
from millrace.rollout.observations import Histogram, Observed
from millrace.rollout.policy import RolloutPolicy

SCORE_BINS: Final = 10
"""Score buckets are joined until each holds about this part of the mass: sparse ones make the index noise."""


def distribution(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Iterator[Check]:
    """Whether the scores are spread alike."""
    scored = min(canary.scores.total, stable.scores.total)
    if scored >= policy.min_scores_to_judge_repeats:
        yield _repeats(stable, canary, policy)
    if scored >= policy.min_sample_to_judge:
        yield _shift(stable.scores, canary.scores, policy)


def decisions(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Iterator[Check]:
    """Whether both flag about as many."""
    scored = stable.scores.total, canary.scores.total
    if canary.reviewed is not None and stable.reviewed is not None and min(scored) >= policy.min_sample_to_judge:
        yield _decision_rate((stable.reviewed, canary.reviewed), scored, policy)


def score_shift(stable: Histogram, canary: Histogram) -> tuple[float, float]:
    """The population stability index of two histograms with the same bounds, and what chance alone reaches in 0.1 %.

    Between samples of one distribution, index / (1/n + 1/m) follows chi-squared with bins − 1 degrees of freedom
    (Yurdakul 2018).
    """
    n, m = stable.total, canary.total
    groups = list(_joined(stable.counts, canary.counts))
    index = stability_index([expected for expected, _ in groups], [got for _, got in groups])
    return index, _chi_squared_999(len(groups) - 1) * (1 / n + 1 / m)


def _repeats(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Check:
    """A model that always says the same repeats itself with nearly every score; few scores show it."""
    theirs = min(canary.repeated, canary.scores.total), canary.scores.total
    usual = min(stable.repeated, stable.scores.total), stable.scores.total
    return difference("share of equal scores above stable", theirs, usual, policy.max_repeats_above_stable)


def _shift(stable: Histogram, canary: Histogram, policy: RolloutPolicy) -> Check:
    index, by_chance = score_shift(stable, canary)
    limit = max(policy.max_score_psi, by_chance)
    return Check("score PSI", index, limit, index > limit)


def _decision_rate(reviewed: tuple[float, float], scored: tuple[float, float], policy: RolloutPolicy) -> Check:
    """Compares how often (stable, canary) decide `review`.

    Half a decision is added to each side, so that none among few is no infinite ratio.
    """
    ratio = (reviewed[1] + 0.5) / (scored[1] + 1) * (scored[0] + 1) / (reviewed[0] + 0.5)
    stable_low, stable_high = wilson(reviewed[0], scored[0])
    low, high = wilson(reviewed[1], scored[1])
    limit = policy.max_decision_rate_ratio
    breached = low > limit * stable_high or high * limit < stable_low
    # Few decisions tell little: what cannot be told from the stable rate passes.
    alike = low <= stable_high and stable_low <= high
    value = min(max(ratio, 1 / ratio), limit) if alike else max(ratio, 1 / ratio)
    return Check("decision rate ratio", value, limit, breached)


def _joined(stable: Sequence[float], canary: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Neighbouring buckets joined until each holds a SCORE_BINS-th of both revisions' mass; the rest with the last."""
    least = (sum(stable) + sum(canary)) / SCORE_BINS
    groups: list[list[float]] = []
    open_ = [0.0, 0.0]
    for expected, got in zip(stable, canary, strict=True):
        open_ = [open_[0] + expected, open_[1] + got]
        if sum(open_) >= least:
            groups.append(open_)
            open_ = [0.0, 0.0]
    if sum(open_) > 0:
        if groups:
            groups[-1] = [groups[-1][0] + open_[0], groups[-1][1] + open_[1]]
        else:
            groups.append(open_)
    yield from ((expected, got) for expected, got in groups)


def _chi_squared_999(degrees: int) -> float:
    """The 99.9th percentile of chi-squared, by Wilson and Hilferty (1931); within 2 % from one degree on."""
    if degrees <= 0:
        return 0.0
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + 3.0902 * math.sqrt(part)) ** 3)
