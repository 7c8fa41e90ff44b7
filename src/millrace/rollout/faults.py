"""What a single case tells: answers that are none, processes that die, memory that grows without bound.

The fallback hides all of it from clients, so it is judged by itself and not by what they saw.
"""

from __future__ import annotations

from collections.abc import Iterator

from millrace.rollout.check import Check, wilson
from millrace.rollout.observations import Observed
from millrace.rollout.policy import RolloutPolicy


def faults(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Iterator[Check]:
    """However few requests there were."""
    if canary.unsound > 0:
        yield _unsound(stable, canary, policy)
    if canary.deaths > 0:
        more = canary.deaths > max(policy.max_deaths, stable.deaths)
        yield Check("ends of its processes", canary.deaths, policy.max_deaths, more, canary.last_death)
    if canary.memory_mb is not None and stable.memory_mb is not None:
        usual = stable.memory_mb
        limit = max(policy.max_memory_ratio * usual, usual + policy.memory_slack_mb)
        yield Check("memory MB", canary.memory_mb, limit, canary.memory_mb > limit, f"stable {usual:.0f}")


def _unsound(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Check:
    """One is too many, unless the stable revision gives them as well."""
    limit = policy.max_unsound_answers
    low, _ = wilson(canary.unsound, max(canary.requests, canary.unsound))
    _, high = wilson(stable.unsound, max(stable.requests, stable.unsound))
    breached = canary.unsound > limit and (stable.unsound == 0 or low > high)
    return Check("answers that are no scores", canary.unsound, limit, breached)
