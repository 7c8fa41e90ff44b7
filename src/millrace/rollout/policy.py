"""Whether a canary gets more traffic, all of it, or none: a pure function from observations to a decision.

A limit is *breached* when the canary is beyond it with confidence, and that always rolls back. It *passes* when the
figure itself is within the limit; only with every limit passed, on enough requests, does traffic grow. What is neither
waits, and what waits too long is rolled back. Where figures come from, and what moves traffic, is `serving/rollout`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, model_validator

from millrace.config import Config
from millrace.judge.stability import stability_index

WILSON_Z: Final = 2.58
"""One-sided 0.5 %: figures are looked at many times during a step."""
SCORE_BINS: Final = 10
"""Score buckets are joined until each holds about this part of the mass: sparse ones make the index noise."""

Percent = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


class Action(StrEnum):
    HOLD = "hold"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class Phase(StrEnum):
    PROGRESSING = "progressing"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


class RolloutPolicy(Config):
    """Steps and limits; the defaults are those of `serving/rollout/rollout.yaml`."""

    steps: tuple[Percent, ...] = (10, 50, 100)
    """Canary traffic of each step; the last is 100 and means promoted."""
    min_sample: int = Field(default=500, ge=1)
    """Requests that each revision must have answered in a step before traffic grows."""
    min_sample_to_judge: int = Field(default=30, ge=1)
    """Requests below which no limit counts as breached."""
    min_step_s: float = Field(default=60.0, ge=0)
    """A step lasts at least this long: a burst is not a sample of the day."""
    max_step_s: float = Field(default=3600.0, gt=0)
    """A step that is not decided by then is rolled back."""
    max_start_s: float = Field(default=300.0, gt=0)
    """A canary that is not ready by then is rolled back."""
    max_error_rate: Share = 0.01
    """Of the canary's answers, 5xx."""
    max_error_rate_above_stable: Share = 0.005
    latency_quantile: float = Field(default=0.95, gt=0.5, lt=1)
    max_latency_ratio: float = Field(default=1.5, ge=1)
    """Canary's quantile over the stable revision's …"""
    latency_slack_ms: float = Field(default=5.0, ge=0)
    """… as long as it is slower by more than this."""
    max_score_psi: float = Field(default=0.2, gt=0)
    """Population stability index of scores; 0.2 is the customary line for a shift that matters."""
    max_decision_rate_ratio: float = Field(default=2.0, gt=1)
    """Share of `review` decisions, canary over stable, or the other way round."""
    max_alert_precision_drop: Share = 0.1
    """Of flagged events whose label is known, the positives; stable minus canary."""
    min_labelled_alerts: int = Field(default=30, ge=1)
    max_error_ratio: float = Field(default=1.1, gt=1)
    """Mean absolute error of a quantity where labels are known, canary over stable."""
    min_labelled_errors: int = Field(default=200, ge=2)

    @model_validator(mode="after")
    def _steps_grow(self) -> RolloutPolicy:
        if list(self.steps) != sorted(set(self.steps)) or len(self.steps) < 2 or self.steps[-1] != 100:
            raise ValueError(f"steps are {list(self.steps)}; wanted at least two growing percentages, the last 100")
        return self

    @property
    def max_duration_s(self) -> float:
        """By then every rollout has ended."""
        return self.max_start_s + self.max_step_s * len(self.steps)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts per bucket: counts[i] for values in (bounds[i-1], bounds[i]]; the last count is above every bound."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """The value below which a share `q` lies, linear inside a bucket; the last bound for what is above it."""
        rank, below = q * self.total, 0.0
        for i, count in enumerate(self.counts[: len(self.bounds)]):
            if below + count >= rank and count > 0:
                low = self.bounds[i - 1] if i else 0.0
                return low + (self.bounds[i] - low) * (rank - below) / count
            below += count
        return self.bounds[-1] if self.bounds else math.nan

    def above(self, value: float) -> float:
        """How many lie above `value`, linear inside a bucket; past the last bound, all that are above that."""
        beyond = self.counts[-1] if len(self.counts) > len(self.bounds) else 0.0
        for i, bound in enumerate(self.bounds):
            low = self.bounds[i - 1] if i else 0.0
            if bound > value:
                beyond += self.counts[i] * min(1.0, (bound - value) / (bound - low))
        return beyond


@dataclass(frozen=True, slots=True)
class Alerts:
    """Flagged events of a rollout whose label is known."""

    labelled: float = 0.0
    true: float = 0.0
    """Positives among them."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute errors of a rollout's answers whose label, a quantity, is known."""

    labelled: float = 0.0
    mean: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True, slots=True)
class Observed:
    """One revision since the step began."""

    requests: float = 0.0
    errors: float = 0.0
    """Answers with 5xx, or none."""
    latency_ms: Histogram = field(default_factory=Histogram)
    scores: Histogram = field(default_factory=Histogram)
    reviewed: float | None = None
    """Of the scored events, those decided `review`; None where the task has no decisions."""
    labels: Alerts | Errors | None = None
    """What labels say; None where nobody was asked."""


@dataclass(frozen=True, slots=True)
class Observations:
    stable: Observed = field(default_factory=Observed)
    canary: Observed = field(default_factory=Observed)
    canary_ready: bool = True
    """Whether the canary has become ready; until then it gets no traffic."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a rollout is; times are seconds since the epoch."""

    percent: int
    began: float
    step_began: float
    phase: Phase = Phase.PROGRESSING


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    percent: int
    """Canary traffic from now on: 0 after a rollback, 100 after a promotion."""
    reason: str


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


def decide(state: State, observations: Observations, policy: RolloutPolicy, now: float) -> Decision:
    """What to do now; a rollout that has ended is left as it is."""
    if state.phase is not Phase.PROGRESSING:
        return Decision(Action.HOLD, state.percent, f"the rollout has ended: {state.phase}")
    found = tuple(checks(observations, policy))
    breached = [str(check) for check in found if check.breached]
    if breached:
        return Decision(Action.ROLL_BACK, 0, "; ".join(breached))
    late = _too_late(state, observations, policy, now, found)
    if late:
        return Decision(Action.ROLL_BACK, 0, late)
    missing = _missing(state, observations, policy, now, found)
    if missing:
        return Decision(Action.HOLD, state.percent, missing)
    return _forward(state, policy, found)


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
    low, _ = wilson(canary.errors, canary.requests)
    _, high = wilson(stable.errors, stable.requests)
    above = canary.errors / canary.requests - stable.errors / stable.requests
    limit = policy.max_error_rate_above_stable
    return Check("error rate above stable", above, limit, low - high > limit)


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
    """Of (stable, canary). Half a decision is added to each side, so that none among few is no infinite ratio."""
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
    low, _ = wilson(stable.true, stable.labelled)
    _, high = wilson(canary.true, canary.labelled)
    drop = stable.true / stable.labelled - canary.true / canary.labelled
    limit = policy.max_alert_precision_drop
    return Check("alert precision drop", drop, limit, low - high > limit)


def _error_growth(stable: Errors, canary: Errors, policy: RolloutPolicy) -> Check:
    """The canary's mean error is beyond the limit with confidence, by a normal interval of the difference."""
    limit = policy.max_error_ratio
    spread = math.sqrt(canary.variance / canary.labelled + limit * limit * stable.variance / stable.labelled)
    beyond = canary.mean - limit * stable.mean
    ratio = canary.mean / stable.mean if stable.mean > 0 else (math.inf if canary.mean > 0 else 1.0)
    return Check("error ratio", ratio, limit, beyond > WILSON_Z * spread)


def _too_late(
    state: State, observations: Observations, policy: RolloutPolicy, now: float, found: Sequence[Check]
) -> str:
    """Why waiting has to end, or nothing."""
    if not observations.canary_ready:
        late = now - state.began > policy.max_start_s
        return f"the canary was not ready within {policy.max_start_s:g} s" if late else ""
    if now - state.step_began > policy.max_step_s or now - state.began > policy.max_duration_s:
        why = _missing(state, observations, policy, now, found) or "the controller was away"
        return f"not decided within {policy.max_step_s:g} s at {state.percent} %: {why}"
    return ""


def _missing(
    state: State, observations: Observations, policy: RolloutPolicy, now: float, found: Sequence[Check]
) -> str:
    """What keeps traffic from growing, or nothing."""
    if not observations.canary_ready:
        return "the canary is starting"
    least = policy.min_sample
    for name, side in (("canary", observations.canary), ("stable", observations.stable)):
        for what, got in (("requests", side.requests), ("scores", side.scores.total)):
            if got < least:
                return f"{got:.0f} of {least} {what} of the {name} revision"
    failing = [str(check) for check in found if not check.passed]
    if failing:
        return "not within limits yet: " + "; ".join(failing)
    waited = now - state.step_began
    return f"{waited:.0f} of {policy.min_step_s:g} s" if waited < policy.min_step_s else ""


def _forward(state: State, policy: RolloutPolicy, found: Sequence[Check]) -> Decision:
    following = next((step for step in policy.steps if step > state.percent), 100)
    action = Action.PROMOTE if following == 100 else Action.ADVANCE
    return Decision(action, following, ", ".join(str(check) for check in found))


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
