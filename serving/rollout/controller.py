"""The loop around `core.step`: looks every few seconds, survives what fails, says what it did."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from millrace.observe.progress import log
from millrace.registry.models import Registry
from millrace.rollout.canary import Rollout
from millrace.rollout.decision import Action, Decision
from millrace.rollout.policy import RolloutPolicy
from serving.rollout import core
from serving.rollout.core import MetricsSource, Target


class Controller:
    """Moves one service's rollouts."""

    def __init__(
        self,
        target: Target,
        metrics: MetricsSource,
        registry: Registry,
        policy: RolloutPolicy,
        *,
        adopting: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._target = target
        self._metrics = metrics
        self._registry = registry
        self._policy = policy
        self._adopting = adopting
        self._clock = clock
        self._finished: Rollout | None = None
        self._said = ""
        self._trouble: dict[str, str] = {}

    def look(self) -> tuple[Rollout | None, Decision]:
        """One look; raises MillraceError when the target cannot be read or written."""
        if self._adopting:
            self._adopt()
        rollout, decision = core.step(self._target, self._metrics, self._registry, self._policy, self._clock())
        if rollout is not None and not rollout.progressing and rollout != self._finished:
            core.finish(self._registry, rollout)
            self._finished = rollout
        self._say(rollout, decision)
        return rollout, decision

    def run(self, every_s: float, stop: threading.Event, *, until_end: bool = False) -> Decision | None:
        """Look until `stop`, or until the rollout has ended; the last decision that moved traffic."""
        last: Decision | None = None
        while not stop.is_set():
            if (seen := self.try_look()) is not None:
                rollout, decision = seen
                last = decision if decision.action is not Action.HOLD else last
                if until_end and (rollout is None or not rollout.progressing):
                    return last or decision
            stop.wait(every_s)
        return last

    def try_look(self) -> tuple[Rollout | None, Decision] | None:
        """`look`, or None and a log line where that fails."""
        try:
            seen = self.look()
        except Exception as error:  # noqa: BLE001 - MLflow's and a driver's errors share no base class
            self._cannot("rollout_not_seen", error)
            return None
        self._trouble.pop("rollout_not_seen", None)
        return seen

    def _adopt(self) -> None:
        """A registry that is away must not keep a canary from being judged."""
        try:
            core.adopt(self._target, self._registry, self._policy, self._clock)
        except Exception as error:  # noqa: BLE001 - MLflow's errors among others
            self._cannot("challenger_not_seen", error)

    def _cannot(self, what: str, error: Exception) -> None:
        """A line when the trouble is new: a workload that nobody serves yet is no news every five seconds."""
        text = str(error) or repr(error)
        if self._trouble.get(what) != text:
            self._trouble[what] = text
            log(what, model=self._registry.name, error=text)

    def _say(self, rollout: Rollout | None, decision: Decision) -> None:
        """A line when something is new, not at every look."""
        text = f"{decision.action} {decision.percent} {decision.reason}"
        if text != self._said:
            self._said = text
            version = rollout.canary_version if rollout else ""
            about = {"model": self._registry.name, "canary": version, "percent": decision.percent}
            log(f"rollout_{decision.action}", **about, reason=decision.reason)


def run_all(controllers: Sequence[Controller], every_s: float, stop: threading.Event) -> None:
    """Look at every service's rollout until `stop`; the trouble of one keeps none of the others waiting."""
    while not stop.is_set():
        for controller in controllers:
            controller.try_look()
        stop.wait(every_s)


def serve_health(port: int) -> ThreadingHTTPServer:
    """/healthz in a thread: 200 as long as the process lives."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/healthz"
            self.send_response(200 if found else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("", port), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
