"""A home with a champion, users who never pause, and what rolls a challenger out; the graphs are `bad_graphs.py`'s."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from typing import Any

import onnx
import yaml

from components.promote.render import inference_service
from millrace.installed import load
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.models import Registry
from millrace.rollout import canary
from millrace.rollout import service as templates
from millrace.rollout.policy import RolloutPolicy
from millrace.settings import Settings
from serving.local.state import LocalState, Place
from serving.rollout import core
from serving.rollout.controller import Controller
from serving.rollout.local import LocalMetrics, LocalTarget

HISTORY_LENGTH = 16
CLIENTS = 3
POLICY = RolloutPolicy(
    min_sample=40,
    min_sample_to_judge=15,
    min_step_s=0,
    max_step_s=120,
    max_error_rate=0.05,
    max_error_rate_above_stable=0.05,
    max_latency_ratio=3,  # the machine that tests run on is busy with other things too
    latency_slack_ms=60,
    max_decision_rate_ratio=3,
)

Change = Callable[[onnx.GraphProto], None]
Spec = Callable[[dict[str, Any]], None]
Meanwhile = Callable[["World"], None]


@dataclass
class Users:
    """Transactions without pause from a few clients; every answer that is not 200, or not there, is kept."""

    port: int
    clients: int = CLIENTS
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    sent: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Users:
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        random, connection = Random(number), HTTPConnection("127.0.0.1", self.port, timeout=30)
        turn = 0
        while not self._stop.is_set():
            turn += 1
            row = {
                "transaction_id": time.time_ns() // 1000 * 10 + number,
                "customer_id": f"{number}-{turn}",
                "terminal_id": "1",
                "amount": round(random.expovariate(1 / 60), 2) + 0.01,
            }
            try:
                connection.request("POST", "/v1/models/fraud-detector:predict", json.dumps({"instances": [row]}))
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    self.versions[json.loads(body)["predictions"][0]["model_version"]] += 1
                else:
                    self.failures.append(f"{answer.status} {body[:200]!r}")
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            self.sent += 1
        connection.close()


@dataclass
class World:
    settings: Settings
    registry: Registry
    place: Place
    env: dict[str, str]
    make: Callable[..., Path]

    def program(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=240, check=False)

    def promote(self, name: str, change: Change = lambda _: None, spec: Spec = lambda _: None) -> int:
        """What the promote step does with a model that has passed its gates; `change` is done to its graph, `spec` to
        its model.json.
        """
        version = self.registry.register(name, {}).version
        folder = self.registry.folder(version)
        shutil.copytree(self.make("rollout", history_length=HISTORY_LENGTH), folder)
        graph = onnx.load(folder / "model.onnx")
        change(graph.graph)
        onnx.save(graph, folder / "model.onnx")
        document = json.loads((folder / "model.json").read_text())
        spec(document)
        (folder / "model.json").write_text(json.dumps(document))
        (folder / "manifest.json").unlink()
        Manifest(
            kind="model",
            id=name,
            workload="fraud",
            uri=str(folder),
            files=hash_files(folder),
            facts={"generation": "served"},
        ).write()
        text = inference_service(templates.inference_service(load("fraud")), version, self.registry.uri(version))
        self.registry.rendered_path(version).write_text(text)
        return self.registry.admit(version).version

    def state(self) -> LocalState:
        state = self.place.read()
        assert state is not None
        return state

    def document(self) -> dict[str, Any]:
        return yaml.safe_load(self.place.manifest("fraud-detector").read_text())

    def percent(self) -> int | None:
        return self.document()["spec"]["predictor"].get("canaryTrafficPercent")

    def target(self) -> LocalTarget:
        return LocalTarget(self.place, "fraud-detector")

    def controller(self) -> Controller:
        return Controller(self.target(), LocalMetrics(self.place, "fraud-detector"), self.registry, POLICY)

    def roll_out(self, meanwhile: Meanwhile = lambda _: None, clients: int = CLIENTS) -> tuple[Any, Users]:
        """Start the challenger's canary and move it to its end, with users all the while."""
        with Users(self.state().gateway_port, clients) as users, doing(lambda: meanwhile(self)):
            core.start(self.target(), self.registry, POLICY, time.time)
            decision = self.controller().run(0.3, threading.Event(), until_end=True)
            self.settled()
        return decision, users

    def seconds_of_traffic(self) -> float:
        """How long the canary that has ended was asked; of one that was never ready how long it was waited for."""
        rollout = canary.read(self.document())
        assert rollout is not None
        began = datetime.fromisoformat(rollout.ready or rollout.began)
        return (datetime.fromisoformat(rollout.step_began) - began).total_seconds()

    def settled(self) -> None:
        """Wait until one revision has all traffic and the other one is gone."""
        wait("one revision", lambda: [r.percent for r in self.state().services[0].revisions] == [100])
        wait("readiness", lambda: self.state().state == "ready")


@contextmanager
def doing(work: Callable[[], None]) -> Iterator[None]:
    """`work` again and again in a thread, while the body runs."""
    stop = threading.Event()

    def again() -> None:
        while not stop.wait(0.05):
            work()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait(what: str, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.05)


def kill_the_canary(world: World) -> None:
    """Kill -9 its process whenever it answers."""
    state = world.place.read()
    processes = [] if state is None else state.processes
    newest = max((process.revision for process in processes if process.role == "predictor"), default="")
    stable = {process.revision for process in processes if process.role == "predictor"} - {newest}
    for process in processes:
        if stable and process.revision == newest and process.state == "ready" and world.percent():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
