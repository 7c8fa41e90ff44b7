"""What was observed of a canary, figure by figure, against the limits of the policy.

A limit is *breached* when the canary is beyond it with confidence. It *passes* when the figure itself is within the
limit. What is neither has to wait. Here are the figures of requests; `faults.py`, `scores.py` and `labelled.py` have
the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from millrace.rollout.check import Check, difference, wilson
from millrace.rollout.faults import faults
from millrace.rollout.labelled import by_labels
from millrace.rollout.observations import Histogram, Observations, Observed
from millrace.rollout.policy import RolloutPolicy
from millrace.rollout.scores import decisions, distribution

LABELS_DECIDE: Final = "labels say that it is right"


def checks(observations: Observations, policy: RolloutPolicy) -> Iterator[Check]:
    """Every figure that can be judged on what was observed."""
    stable, canary = observations.stable, observations.canary
    yield from faults(stable, canary, policy)
    yield from _requests(stable, canary, policy)

    labelled = list(by_labels(stable, canary, policy))
    vouched = bool(labelled) and all(check.passed for check in labelled)
    for check in distribution(stable, canary, policy):
        overruled = vouched and not check.passed
        yield replace(check, breached=False, overruled=True, note=LABELS_DECIDE) if overruled else check
    yield from decisions(stable, canary, policy)
    yield from labelled


def _requests(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Iterator[Check]:
    """Failures, refusals and latency."""
    both = min(canary.requests, stable.requests)
    few, enough = policy.min_errors_to_judge, policy.min_sample_to_judge
    if canary.requests >= enough:
        yield _error_rate(canary, policy)
    if both >= enough or (canary.errors >= few and stable.requests > 0):
        yield _error_rate_above_stable(stable, canary, policy)
    if both >= enough or (canary.refused >= few and stable.requests > 0):
        yield _refusals(stable, canary, policy)
    if min(canary.latency_ms.total, stable.latency_ms.total) >= enough:
        yield _latency(stable.latency_ms, canary.latency_ms, policy)


def _error_rate(canary: Observed, policy: RolloutPolicy) -> Check:
    low, _ = wilson(canary.errors, canary.requests)
    limit = policy.max_error_rate
    return Check("error rate", canary.errors / canary.requests, limit, low > limit)


def _error_rate_above_stable(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Check:
    larger, smaller = (canary.errors, canary.requests), (stable.errors, stable.requests)
    return difference("error rate above stable", larger, smaller, policy.max_error_rate_above_stable)


def _refusals(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Check:
    """Both are sent the same requests by lot, so a canary that refuses more of them reads other ones."""
    larger, smaller = (canary.refused, canary.requests), (stable.refused, stable.requests)
    return difference("refusals above stable", larger, smaller, policy.max_refusals_above_stable)


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
