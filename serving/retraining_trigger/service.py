"""The trigger at work: takes requests, starts what is due, asks after what runs. What counts is on disk first."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from millrace.errors import MillraceError
from millrace.observe.progress import log
from millrace.observe.tracing import Value, work_span
from millrace.registry.models import Registry
from millrace.registry.retraining import FAILED
from millrace.settings import Settings
from serving.retraining_trigger import core, memory
from serving.retraining_trigger.core import MAX_ATTEMPTS, Job, Policy, Request, State
from serving.retraining_trigger.launcher import Launcher

POLL_S: Final = 0.5


class Trigger:
    """One home's trigger; the caller holds its lock. Safe to call from several threads."""

    def __init__(self, settings: Settings, launcher: Launcher, clock: Callable[[], datetime] | None = None) -> None:
        self._settings = settings
        self._launcher = launcher
        self._clock = clock or (lambda: datetime.now(UTC))
        self._path = settings.home / "retraining" / "trigger.json"
        self._guard = threading.RLock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.trouble = ""
        """Why the last tick could not do what was due; empty when all is well."""
        self.policy = Policy(
            debounce_s=settings.retraining_debounce_s,
            cooldown_h=settings.retraining_cooldown_h,
            every_days=settings.retraining_every_days,
            timeout_h=settings.retraining_timeout_h,
        )
        self.state = memory.read(self._path)
        if self.state.last_ended_at is None:  # the schedule counts from the first start
            self._become(dataclasses.replace(self.state, last_ended_at=self._clock()))

    def take(self, requests: Iterable[Request]) -> list[dict[str, str]]:
        """What became of each; on disk when this returns."""
        with self._guard:
            state, said = self.state, []
            for request in requests:
                state, answer = core.take(state, request, self._clock(), self.policy)
                said.append({"id": request.id, "answer": answer})
                log("request", id=request.id, kind=request.kind, answer=answer)
            self._become(state)
        self._wake.set()
        return said

    def tick(self) -> None:
        """One look: what runs, what is due, the schedule. Raises Unavailable when the launcher's side is away."""
        with self._guard:
            if self.state.running is not None:
                self._look_after(self.state.running)
            request = core.scheduled(self.state, self._clock(), self.policy)
            if request is not None:
                self.take([request])
            job = core.due(self.state, self._clock(), self.policy)
            if job is not None:
                self._launch(job)

    def run(self) -> None:
        """Tick until `stop`; trouble is logged when it changes, and tried again."""
        while not self._stopping.is_set():
            try:
                self.tick()
                trouble = ""
            except (MillraceError, OSError) as error:
                trouble = str(error)
            if trouble != self.trouble:
                log("trouble" if trouble else "trouble over", detail=trouble or self.trouble)
                self.trouble = trouble
            self._wake.wait(POLL_S if not trouble else 10 * POLL_S)
            self._wake.clear()

    def stop(self) -> None:
        """End `run`; a retraining that runs goes on, and the next trigger finds it."""
        self._stopping.set()
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """As JSON."""
        state = self.state
        until = core.cool_until(state, self.policy)
        return {
            "waiting": dataclasses.asdict(state.waiting) | {"reason": state.waiting.reason} if state.waiting else None,
            "running": dataclasses.asdict(state.running) | {"reason": state.running.reason} if state.running else None,
            "cooling_down_until": until.isoformat() if until else None,
            "history": list(state.history),
            "trouble": self.trouble,
        }

    def _launch(self, job: Job) -> None:
        self._become(core.started(self.state, job, self._clock()))
        if job.attempts == 0:
            Registry(self._settings).note("retraining_asked", reason=job.reason, events=list(job.asked_by), id=job.id)
        log("retraining_starts", id=job.id, reason=job.reason, attempt=job.attempts + 1)
        about: dict[str, Value] = {
            "millrace.registry.retraining.id": job.id,
            "millrace.registry.retraining.attempt": job.attempts + 1,
        }
        with work_span("retraining.start", job.traceparent, about):
            self._launcher.start(job.id, job.reason)

    def _look_after(self, job: Job) -> None:
        status = self._launcher.status(job.id)
        if status.where == "ended":
            self._end(status.outcome, status.detail)
        elif core.overdue(job, self._clock(), self.policy):
            self._launcher.stop(job.id)
            self._end(FAILED, f"given up after {self.policy.timeout_h:g} hours")
        elif status.where == "absent" and job.attempts >= MAX_ATTEMPTS:
            self._end(FAILED, f"ended {job.attempts} times without a result: {status.detail}")
        elif status.where == "absent":
            log("retraining_resumes", id=job.id, attempt=job.attempts + 1, last_words=status.detail)
            self._launch(job)

    def _end(self, outcome: str, detail: str) -> None:
        job = self.state.running
        log("retraining_ended", id=job.id if job else "", outcome=outcome, detail=detail[:500])
        self._become(core.ended(self.state, outcome, detail, self._clock()))

    def _become(self, state: State) -> None:
        if state != self.state or not self._path.is_file():
            memory.write(self._path, state)
            self.state = state


def launcher_of(settings: Settings) -> Launcher:
    """The launcher that the settings name."""
    if settings.retraining_launcher == "kfp":
        from serving.retraining_trigger.kfp_launcher import KfpLauncher

        return KfpLauncher(settings)
    from serving.retraining_trigger.launcher import LocalLauncher

    return LocalLauncher(settings)
