"""One look at a rollout: what was observed and decided, and what that makes of target, registry and audit log.

What to do is `millrace.rollout.decision`, how a document says it `millrace.rollout.canary`. Every step
may be repeated: a controller that was killed anywhere goes on from the annotations and the registry.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from millrace.errors import AlreadyRunning, InvalidInput, NotFound, Unavailable
from millrace.observe.tracing import Value, span, work_span
from millrace.registry.models import CHALLENGER, CHAMPION, Registry
from millrace.rollout import canary
from millrace.rollout.canary import Document, Rollout
from millrace.rollout.decision import Action, Decision, Phase, decide
from millrace.rollout.observations import Observations
from millrace.rollout.policy import RolloutPolicy

NOTE_TIMEOUT_S: Final = 30.0

Change = Callable[[Document], Document]
Clock = Callable[[], float]
"""Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class RevisionNames:
    """How metrics call the two revisions; the canary is ready once it may get traffic."""

    stable: str
    canary: str
    canary_ready: bool
    failed: str = ""
    """Why the canary will not become ready; empty while it may."""


class Target(Protocol):
    """Where traffic is moved: an InferenceService on a cluster, or a file that the local runtime follows."""

    def read(self) -> Document:
        """The InferenceService as it is wanted now; raises NotFound, Unavailable."""

    def change(self, change: Change) -> Document:
        """Apply `change` to the newest document, again when somebody else was faster; the outcome."""

    def revisions(self, rollout: Rollout) -> RevisionNames:
        """The two revisions of a rollout; raises Unavailable when nobody can say."""


class MetricsSource(Protocol):
    """What the two revisions have done since a step began."""

    def observe(self, rollout: Rollout, names: RevisionNames, now: float) -> Observations:
        """Counts since `rollout.step_began`; raises Unavailable."""


def start(
    target: Target, registry: Registry, policy: RolloutPolicy, clock: Clock, version: int | None = None
) -> Rollout:
    """Give the challenger (or `version`) the first step's traffic; nothing happens when it has some already.

    Raises NotFound without a challenger, InvalidInput when another canary is under way or this one was refused.
    """
    number = version or registry.aliases().get(CHALLENGER)
    if number is None:
        raise NotFound("there is no challenger. Train another model (make run), then start its canary.")
    document = target.read()
    rollout = canary.read(document)
    if rollout is not None and rollout.progressing:
        if rollout.canary == number:
            return rollout
        raise InvalidInput(f"version {rollout.canary} is being rolled out. Wait for its end, or: make abort")
    if canary.serves(document) == number:
        raise InvalidInput(f"version {number} has all the traffic already; wanted another one")
    if version is None and registry.was_rejected(number):
        raise InvalidInput(f"version {number} was rolled back before. To try it again: make canary VERSION={number}")
    registry.version(number)
    percent = policy.steps[0]
    new = (number, registry.uri(number))
    about: dict[str, Value] = {"millrace.rollout.canary": number, "millrace.rollout.percent": percent}
    with work_span("rollout.start", attributes=about):
        made = canary.read(target.change(lambda found: canary.started(found, new, percent, clock())))
        if made is None:
            raise InvalidInput("the canary was written and is not there; somebody else owns the InferenceService")
        _note(registry, "canary_started", made, percent, "started")
    return made


def adopt(target: Target, registry: Registry, policy: RolloutPolicy, clock: Clock) -> None:
    """What promotion leaves to the controller of a cluster: point at the first champion, start a new challenger."""
    document, aliases = target.read(), registry.aliases()
    rollout = canary.read(document)
    challenger, champion = aliases.get(CHALLENGER), aliases.get(CHAMPION)
    if canary.serves(document) is None:
        if champion is not None:
            target.change(lambda found: canary.pointed(found, champion, registry.uri(champion)))
            registry.note("served", champion_version=champion, reason="the first champion")
        return
    # A rollout that has ended is not begun again by itself, even where the registry does not say so yet.
    seen = rollout is not None and (rollout.progressing or rollout.canary == challenger)
    if challenger is not None and not seen and not registry.was_rejected(challenger):
        start(target, registry, policy, clock)


def step(
    target: Target, metrics: MetricsSource, registry: Registry, policy: RolloutPolicy, now: float
) -> tuple[Rollout | None, Decision]:
    """Look once and move traffic when the policy says so. The rollout as it was found, and the decision."""
    rollout = canary.read(target.read())
    if rollout is None:
        return None, Decision(Action.HOLD, 0, "no rollout is under way")
    if not rollout.progressing:
        return rollout, Decision(Action.HOLD, int(rollout.percent), f"{rollout.phase}: {rollout.reason}")
    decision = judge(target, metrics, rollout, policy, now)
    if decision.action is not Action.HOLD:
        carry_out(target, registry, rollout, decision, now)
    return rollout, decision


def judge(target: Target, metrics: MetricsSource, rollout: Rollout, policy: RolloutPolicy, now: float) -> Decision:
    """What the policy says; when nothing can be observed it waits, and no longer than it may."""
    try:
        names = target.revisions(rollout)
        if names.failed:
            return Decision(Action.ROLL_BACK, 0, names.failed)
        if names.canary_ready and not rollout.ready:
            made = canary.read(
                target.change(lambda found: _if_same(found, rollout, lambda same: canary.ready(same, now)))
            )
            if made is not None:
                metrics.observe(made, names, now)  # what is counted from here on is the first step's
            return Decision(Action.HOLD, int(rollout.percent), "the canary has become ready")
        observations = metrics.observe(rollout, names, now) if rollout.ready else Observations(canary_ready=False)
    except Unavailable as error:
        waiting = decide(rollout.state, Observations(), policy, now)
        return Decision(waiting.action, waiting.percent, f"{waiting.reason}; not observed: {error}")
    return decide(rollout.state, observations, policy, now)


def carry_out(target: Target, registry: Registry, rollout: Rollout, decision: Decision, now: float) -> None:
    """Traffic first, since that protects answers; then the audit record and the registry."""
    about: dict[str, Value] = {
        "millrace.rollout.canary": rollout.canary,
        "millrace.rollout.percent": decision.percent,
    }
    with work_span(f"rollout.{decision.action}", attributes=about):
        now_is = _moved(target, rollout, decision, now)
        if now_is is None or now_is.canary != rollout.canary:
            return
        with span("registry"):
            _note(registry, f"canary_{decision.action}", now_is, decision.percent, decision.reason)
            if not now_is.progressing:
                finish(registry, now_is)


def _moved(target: Target, rollout: Rollout, decision: Decision, now: float) -> Rollout | None:
    """The rollout after the decision was written."""
    reason = decision.reason
    changes: dict[Action, Change] = {
        Action.ADVANCE: lambda found: canary.advanced(found, decision.percent, now, reason),
        Action.PROMOTE: lambda found: canary.promoted(found, now, reason),
        Action.ROLL_BACK: lambda found: canary.rolled_back(found, now, reason),
    }
    with span("traffic"):
        return canary.read(target.change(lambda found: _if_same(found, rollout, changes[decision.action])))


def abort(target: Target, registry: Registry, now: float, reason: str) -> Rollout:
    """Roll back now, whatever the figures say; raises NotFound when nothing is being rolled out."""
    rollout = canary.read(target.read())
    if rollout is None or not rollout.progressing:
        raise NotFound("nothing is being rolled out")
    carry_out(target, registry, rollout, Decision(Action.ROLL_BACK, 0, reason), now)
    return rollout


def told(document: Document) -> str:
    """Where the last rollout of a service is, or how it ended, and why, in one line."""
    name, rollout = document["metadata"].get("name"), canary.read(document)
    if rollout is None:
        return f"{name}: nothing has been rolled out in steps. Start a canary with: make canary"
    versions = f"version {rollout.canary} beside {rollout.stable}"
    where = f"at {rollout.percent} %" if rollout.progressing else rollout.phase.replace("_", " ")
    waits = ", is starting" if rollout.progressing and not rollout.ready else ""
    return f"{name}: {versions}, {where} since {rollout.step_began}{waits}: {rollout.reason}"


def finish(registry: Registry, rollout: Rollout) -> None:
    """Aliases as the rollout ended; a registry that says so already is left alone."""
    aliases = registry.aliases()
    if rollout.phase == Phase.PROMOTED and aliases.get(CHAMPION) == rollout.stable:
        registry.make_champion(rollout.canary, rollout.reason)
    if rollout.phase == Phase.ROLLED_BACK and aliases.get(CHALLENGER) == rollout.canary:
        registry.reject(rollout.canary, rollout.reason)


def _if_same(found: Document, rollout: Rollout, change: Change) -> Document:
    """Change a document that still tells of this rollout at this step; one that somebody has changed is left alone."""
    now_is = canary.read(found)
    same = now_is is not None and (now_is.canary, now_is.began, now_is.phase, now_is.percent) == (
        rollout.canary,
        rollout.began,
        rollout.phase,
        rollout.percent,
    )
    return change(found) if same else found


def _note(registry: Registry, action: str, rollout: Rollout, percent: int, reason: str) -> None:
    """Traffic has moved, so the record must be written: a lock that somebody holds is waited for."""
    fields: dict[str, Any] = {"stable_version": rollout.stable, "canary_version": rollout.canary}
    deadline = time.monotonic() + NOTE_TIMEOUT_S
    while True:
        try:
            return registry.note(action, **fields, percent=percent, reason=reason)
        except AlreadyRunning:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
