"""Whether a canary gets more traffic, all of it, or none: a pure function from observations to a decision.

A breached limit (`checks.py`) always rolls back; only with every limit passed, on enough requests, does traffic grow.
What is neither waits, and what waits too long is rolled back. What moves traffic is `serving/rollout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from millrace.rollout.check import Check
from millrace.rollout.checks import checks
from millrace.rollout.observations import Observations
from millrace.rollout.policy import RolloutPolicy


class Action(StrEnum):
    HOLD = "hold"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class Phase(StrEnum):
    PROGRESSING = "progressing"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


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
