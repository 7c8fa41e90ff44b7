"""Whether the canary is right as often, or as closely, as the stable revision, by the labels that are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from millrace.rollout.check import WILSON_Z, Check, difference
from millrace.rollout.observations import Alerts, Errors, Observed
from millrace.rollout.policy import RolloutPolicy


def by_labels(stable: Observed, canary: Observed, policy: RolloutPolicy) -> Iterator[Check]:
    """Nothing before there are enough labels of both.

    A third of what a canary needs to pass is enough to see that it is far worse.
    """
    one, other = stable.labels, canary.labels
    if one is None or other is None:
        return

    if isinstance(one, Alerts) and isinstance(other, Alerts):
        yield from _enough(one, other, policy.min_labelled_alerts, lambda: _alert_precision(one, other, policy))
    if isinstance(one, Errors) and isinstance(other, Errors):
        yield from _enough(one, other, policy.min_labelled_errors, lambda: _error_growth(one, other, policy))


def _enough(
    stable: Alerts | Errors, canary: Alerts | Errors, needed: int, judge: Callable[[], Check]
) -> Iterator[Check]:
    """The check once both have as many labels as are needed, or as many as tell that it is breached."""
    known = min(stable.labelled, canary.labelled)
    if known < max(2, needed / 3):
        return

    found = judge()
    if known >= needed or found.breached:
        yield found


def _alert_precision(stable: Alerts, canary: Alerts, policy: RolloutPolicy) -> Check:
    larger, smaller = (stable.true, stable.labelled), (canary.true, canary.labelled)
    return difference("alert precision drop", larger, smaller, policy.max_alert_precision_drop)


def _error_growth(stable: Errors, canary: Errors, policy: RolloutPolicy) -> Check:
    """The canary's mean error is beyond the limit with confidence, by a normal interval of the difference."""
    limit = policy.max_error_ratio
    spread = math.sqrt(canary.variance / canary.labelled + limit * limit * stable.variance / stable.labelled)
    beyond = canary.mean - limit * stable.mean
    ratio = canary.mean / stable.mean if stable.mean > 0 else (math.inf if canary.mean > 0 else 1.0)
    return Check("error ratio", ratio, limit, beyond > WILSON_Z * spread)
