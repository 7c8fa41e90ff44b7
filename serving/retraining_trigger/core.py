"""Which alarms become a retraining: requests and the clock in, the next state and what to say out. No I/O.

One retraining at a time. A first alarm waits for others (debounce); all that come meanwhile share one retraining. After
one has ended, alarms are left alone for the cool-down, counted in the events' own time, so that a replay of old days
behaves like the days themselves. A person waits for nothing but the retraining that runs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

DRIFT, OUTCOME, SCHEDULE, PERSON = "drift", "outcome", "schedule", "person"
KEPT: Final = 5_000
"""Event ids that are remembered; an event that comes again after so many others is new."""
MAX_ATTEMPTS: Final = 3
"""Starts of one retraining that ended without a word (killed, no disk), before it is reported as failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How eager the trigger is."""

    debounce_s: float
    cooldown_h: float
    every_days: float
    """0: no schedule."""
    timeout_h: float


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody asks for a retraining."""

    id: str
    kind: str
    reason: str
    at: datetime
    """In the asker's own time."""
    wanted: bool = True
    """An alarm may say that a retraining would not help."""
    traceparent: str = ""
    """The trace that the request belongs to."""


@dataclass(frozen=True, slots=True)
class Job:
    """A retraining that waits or runs; its id is that of the first request."""

    id: str
    reasons: tuple[str, ...]
    asked_by: tuple[str, ...]
    """Ids of every request that it answers."""
    asked_at: datetime
    """Of the first request, in its own time."""
    came_at: datetime
    by_person: bool = False
    started_at: datetime | None = None
    attempts: int = 0
    traceparent: str = ""
    """Of the first request: its trace goes on with the start of the retraining."""

    @property
    def reason(self) -> str:
        return "; ".join(dict.fromkeys(self.reasons))

    def joined_by(self, request: Request) -> Job:
        return dataclasses.replace(
            self,
            reasons=(*self.reasons, _reason(request)),
            asked_by=(*self.asked_by, request.id),
            by_person=self.by_person or request.kind == PERSON,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Everything that must survive the process."""

    seen: tuple[str, ...] = ()
    waiting: Job | None = None
    running: Job | None = None
    last_asked_at: datetime | None = None
    """Of the last retraining that began, in its asker's own time: the cool-down counts from it."""
    last_ended_at: datetime | None = None
    """By the clock; the schedule counts from it."""
    history: tuple[dict[str, Any], ...] = field(default=())
    """The last retrainings, newest last."""


def take(state: State, request: Request, now: datetime, policy: Policy) -> tuple[State, str]:
    """The state with the request in it, and what became of the request; the same id changes nothing twice."""
    if request.id in state.seen:
        return state, "seen before"
    if not request.wanted:
        return _remember(state, request), "noted: it does not ask for a retraining"
    if state.waiting is not None:
        job = state.waiting.joined_by(request)
        return dataclasses.replace(_remember(state, request), waiting=job), f"joined the retraining {job.id} that waits"
    person = request.kind == PERSON
    if state.running is not None and not person:
        return _remember(state, request), f"left alone: retraining {state.running.id} runs"
    until = cool_until(state, policy)
    if until is not None and request.at < until and not person:
        return _remember(state, request), f"left alone: cooling down until {until.isoformat()}"
    job = Job(request.id, (_reason(request),), (request.id,), request.at, now, person, traceparent=request.traceparent)
    said = "accepted" if state.running is None else f"accepted: it waits for retraining {state.running.id}"
    return dataclasses.replace(_remember(state, request), waiting=job), said


def due(state: State, now: datetime, policy: Policy) -> Job | None:
    """The retraining that should start now."""
    job = state.waiting
    if job is None or state.running is not None:
        return None
    waited = now - job.came_at
    return job if job.by_person or waited >= timedelta(seconds=policy.debounce_s) else None


def started(state: State, job: Job, now: datetime) -> State:
    """The state with `job` running: said before it is launched, so that a killed trigger knows."""
    first = job.started_at or now
    running = dataclasses.replace(job, started_at=first, attempts=job.attempts + 1)
    return dataclasses.replace(state, waiting=None, running=running, last_asked_at=job.asked_at)


def ended(state: State, outcome: str, detail: str, now: datetime) -> State:
    """The state after the running retraining ended."""
    job = state.running
    if job is None:
        return state
    line = {
        "id": job.id,
        "reason": job.reason,
        "asked_by": list(job.asked_by),
        "asked_at": job.asked_at.isoformat(),
        "came_at": job.came_at.isoformat(),
        "started_at": job.started_at.isoformat() if job.started_at else None,
        "ended_at": now.isoformat(),
        "attempts": job.attempts,
        "outcome": outcome,
        "detail": detail,
    }
    return dataclasses.replace(state, running=None, last_ended_at=now, history=(*state.history, line)[-100:])


def scheduled(state: State, now: datetime, policy: Policy) -> Request | None:
    """The request of the schedule, when none has run for so long; counted from the first look at the state."""
    if not policy.every_days or state.waiting or state.running or state.last_ended_at is None:
        return None
    if now - state.last_ended_at < timedelta(days=policy.every_days):
        return None
    return Request(f"schedule-{now.date()}", SCHEDULE, f"none for {policy.every_days:g} days", now)


def cool_until(state: State, policy: Policy) -> datetime | None:
    """When alarms count again; None before the first retraining."""
    return state.last_asked_at and state.last_asked_at + timedelta(hours=policy.cooldown_h)


def overdue(job: Job, now: datetime, policy: Policy) -> bool:
    return job.started_at is not None and now - job.started_at > timedelta(hours=policy.timeout_h)


def _remember(state: State, request: Request) -> State:
    return dataclasses.replace(state, seen=(*state.seen, request.id)[-KEPT:])


def _reason(request: Request) -> str:
    return f"{request.kind}: {request.reason}" if request.reason else request.kind
