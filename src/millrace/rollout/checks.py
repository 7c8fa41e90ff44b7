"""What was observed of a canary, figure by figure, against the limits of the policy.

A limit is *breached* when the canary is beyond it with confidence. It *passes* when the figure itself is within the
limit. What is neither has to wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from millrace.judge.stability import stability_index
from millrace.rollout.observations import Alerts, Errors, Histogram, Observations, Observed
from millrace.rollout.policy import RolloutPolicy

WILSON_Z: Final = 2.58
"""One-sided 0.5 %: figures are looked at many times during a step."""
SCORE_BINS: Final = 10
"""Score buckets are joined until each holds about this part of the mass: sparse ones make the index noise."""


@dataclass(frozen=True, slots=True)
class Check:
    """One figure against one limit."""

    name: str
    value: float
    limit: float
    breached: bool

    @property
    def passed(self) -> bool:
        return not self.breached and self.value <= self.limit

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} (limit {self.limit:.4g})"


def checks(observations: Observations, policy: RolloutPolicy) -> Iterator[Check]:
    """Every figure that can be judged on what was observed."""
    stable, canary = observations.stable, observations.canary
    if canary.requests >= policy.min_sample_to_judge:
        yield _error_rate(canary, policy)
    if min(canary.requests, stable.requests) >= policy.min_sample_to_judge:
        yield _error_rate_above_stable(stable, canary, policy)
    if min(canary.latency_ms.total, stable.latency_ms.total) >= policy.min_sample_to_judge:
        yield _latency(stable.latency_ms, canary.latency_ms, policy)
    if min(canary.scores.total, stable.scores.total) >= policy.min_sample_to_judge:
        yield _score_shift(stable.scores, canary.scores, policy)
        if canary.reviewed is not None and stable.reviewed is not None:
            reviewed = stable.reviewed, canary.reviewed
            yield _decision_rate(reviewed, (stable.scores.total, canary.scores.total), policy)
    yield from _by_labels(stable.labels, canary.labels, policy)


def _by_labels(
    stable: Alerts | Errors | None, canary: Alerts | Errors | None, policy: RolloutPolicy
) -> Iterator[Check]:
    """Whether the canary is right as often, or as closely, once enough labels of both are known."""
    if stable is None or canary is None:
        return
    known = min(canary.labelled, stable.labelled)
    if isinstance(stable, Alerts) and isinstance(canary, Alerts) and known >= policy.min_labelled_alerts:
        yield _alert_precision(stable, canary, policy)
    if isinstance(stable, Errors) and isinstance(canary, Errors) and known >= policy.min_labelled_errors:
        yield _error_growth(stable, canary, policy)


def wilson(hits: float, total: float, z: float = WILSON_Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); (0, 1) for no trials."""
    if total <= 0:
        return 0.0, 1.0
    share = min(hits / total, 1.0)
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def score_shift(stable: Histogram, canary: Histogram) -> tuple[float, float]:
    """The population stability index of two histograms with the same bounds, and what chance alone reaches in 0.1 %.

    Between samples of one distribution, index / (1/n + 1/m) follows chi-squared with bins − 1 degrees of freedom
    (Yurdakul 2018).
    """
    n, m = stable.total, canary.total
    groups = list(_joined(stable.counts, canary.counts))
    index = stability_index([expected for expected, _ in groups], [got for _, got in groups])
    return index, _chi_squared_999(len(groups) - 1) * (1 / n + 1 / m)


def _error_rate(canary: Observed, policy: RolloutPolicy) -> Check:
    low, _ = wilson(canary.errors, canary.requests)
    limit = policy.max_error_rate
    return Check("error rate", canary.errors / canary.requests, limit, low > limit)


def _error_rate_above_stable(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Check:
    larger, smaller = (canary.errors, canary.requests), (stable.errors, stable.requests)
    return _difference("error rate above stable", larger, smaller, policy.max_error_rate_above_stable)


def _latency(stable: Histogram, canary: Histogram, policy: RolloutPolicy) -> Check:
    """The canary's quantile is above the limit when more than 1 − q of its answers are."""
    q = policy.latency_quantile
    reference = stable.quantile(q)
    limit = max(reference * policy.max_latency_ratio, reference + policy.latency_slack_ms)
    low, _ = wilson(canary.above(limit), canary.total)
    _, high = wilson(stable.above(limit), stable.total)  # past the last bucket nothing can be told apart
    return Check(
        f"latency p{q * 100:g} ms", canary.quantile(q), limit, low > max(1 - q, high if _open(stable, q) else 0)
    )


def _open(histogram: Histogram, q: float) -> bool:
    """Whether the quantile lies past the last bound."""
    return histogram.above(histogram.bounds[-1]) > (1 - q) * histogram.total


def _score_shift(stable: Histogram, canary: Histogram, policy: RolloutPolicy) -> Check:
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


def _alert_precision(stable: Alerts, canary: Alerts, policy: RolloutPolicy) -> Check:
    larger, smaller = (stable.true, stable.labelled), (canary.true, canary.labelled)
    return _difference("alert precision drop", larger, smaller, policy.max_alert_precision_drop)


def _difference(name: str, larger: tuple[float, float], smaller: tuple[float, float], limit: float) -> Check:
    """How far one share, (hits, total), lies above another; breached where their intervals are that far apart."""
    low, _ = wilson(*larger)
    _, high = wilson(*smaller)
    above = larger[0] / larger[1] - smaller[0] / smaller[1]
    return Check(name, above, limit, low - high > limit)


def _error_growth(stable: Errors, canary: Errors, policy: RolloutPolicy) -> Check:
    """The canary's mean error is beyond the limit with confidence, by a normal interval of the difference."""
    limit = policy.max_error_ratio
    spread = math.sqrt(canary.variance / canary.labelled + limit * limit * stable.variance / stable.labelled)
    beyond = canary.mean - limit * stable.mean
    ratio = canary.mean / stable.mean if stable.mean > 0 else (math.inf if canary.mean > 0 else 1.0)
    return Check("error ratio", ratio, limit, beyond > WILSON_Z * spread)


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
