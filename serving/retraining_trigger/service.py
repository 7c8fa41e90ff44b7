"""The trigger at work: takes requests, starts what is due, asks after what runs. What counts is on disk first."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from millrace.errors import InvalidInput, MillraceError
from millrace.installed import load, names
from millrace.observe.progress import log
from millrace.observe.tracing import Value, work_span
from millrace.registry.models import Registry, served
from millrace.registry.retraining import FAILED
from millrace.settings import Settings
from serving.retraining_trigger import core, memory
from serving.retraining_trigger.core import MAX_ATTEMPTS, Job, Policy, Request, State
from serving.retraining_trigger.launcher import Launcher

POLL_S: Final = 0.5


class Trigger:
    """A workload's trigger in one home; the caller holds the home's lock. Safe to call from several threads."""

    def __init__(
        self,
        settings: Settings,
        launcher: Launcher,
        clock: Callable[[], datetime] | None = None,
        *,
        others_run: Callable[[], bool] = lambda: False,
    ) -> None:
        """`others_run`: whether another workload's retraining runs; one at a time in a home."""
        self._others_run = others_run
        self._settings = settings
        self._launcher = launcher
        self._clock = clock or (lambda: datetime.now(UTC))
        self._path = settings.home / "retraining" / settings.workload / "trigger.json"
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
            if request is not None and served(self._settings) is not None:
                self.take([request])
            job = core.due(self.state, self._clock(), self.policy)
            if job is not None and not self._others_run():
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
            "millrace.retraining.id": job.id,
            "millrace.retraining.attempt": job.attempts + 1,
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


class Triggers:
    """The triggers of every workload of a home, by name; `default` is asked where nobody is named."""

    def __init__(self, default: Settings, launcher: Callable[[Settings], Launcher]) -> None:
        self.default = default.workload
        self._by_name = {
            name: self._made(settings_of(default, name), launcher) for name in sorted({default.workload, *names()})
        }
        self.models = {load(name).model_name: name for name in self._by_name} | {default.model_name: default.workload}
        """Model → workload."""

    def _made(self, settings: Settings, launcher: Callable[[Settings], Launcher]) -> Trigger:
        return Trigger(settings, launcher(settings), others_run=lambda: self._runs_beside(settings.workload))

    def _runs_beside(self, workload: str) -> bool:
        return any(trigger.state.running for name, trigger in self._by_name.items() if name != workload)

    def of(self, workload: str) -> Trigger:
        """Raises InvalidInput for a workload that is not installed."""
        try:
            return self._by_name[workload or self.default]
        except KeyError:
            raise InvalidInput(f"there is no workload {workload!r}; wanted one of {', '.join(self._by_name)}") from None

    def run(self) -> list[threading.Thread]:
        """Every trigger in a thread of its own, started."""
        threads = [
            threading.Thread(target=trigger.run, name=f"trigger-{name}", daemon=True)
            for name, trigger in self._by_name.items()
        ]
        for thread in threads:
            thread.start()
        return threads

    def stop(self) -> None:
        for trigger in self._by_name.values():
            trigger.stop()

    @property
    def trouble(self) -> str:
        """Of the first that has some."""
        return next((trigger.trouble for trigger in self._by_name.values() if trigger.trouble), "")


def settings_of(default: Settings, workload: str) -> Settings:
    """Those of another workload of the home: what was set for the default's data is not for its."""
    if workload == default.workload:
        return default
    own = {"workload": workload, "model_name": load(workload).model_name}
    return default.model_copy(update=own | {"retraining_source": "", "retraining_overrides": None})


def launcher_of(settings: Settings) -> Launcher:
    """The launcher that the settings name."""
    if settings.retraining_launcher == "kfp":
        from serving.retraining_trigger.kfp_launcher import KfpLauncher

        return KfpLauncher(settings)
    from serving.retraining_trigger.launcher import LocalLauncher

    return LocalLauncher(settings)
