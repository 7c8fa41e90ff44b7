"""A challenger among users: a healthy one is promoted; a slow, a failing and a skewed one are rolled back, unnoticed.

Real servers on a small simulated world under light load; the four models are one small graph, changed.
"""

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
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from components.promote.render import inference_service
from fraud.features import FEATURE_NAMES
from millrace.installed import load
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.models import CHALLENGER, CHAMPION, PREVIOUS, Registry, served
from millrace.rollout import canary
from millrace.rollout import service as templates
from millrace.rollout.decision import Action
from millrace.rollout.policy import RolloutPolicy
from millrace.settings import Settings
from serving.local.state import LocalState, Place
from serving.rollout import core
from serving.rollout.controller import Controller
from serving.rollout.local import LocalMetrics, LocalTarget

ROOT = Path(__file__).parents[3]
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

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@dataclass
class Users:
    """Transactions without pause from a few clients; every answer that is not 200, or not there, is kept."""

    port: int
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    sent: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Users:
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
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

    def promote(self, name: str, change: Callable[[onnx.GraphProto], None] = lambda _: None) -> int:
        """What the promote step does with a model that has passed its gates."""
        version = self.registry.register(name, {}).version
        folder = self.registry.folder(version)
        shutil.copytree(self.make("rollout", history_length=HISTORY_LENGTH), folder)
        graph = onnx.load(folder / "model.onnx")
        change(graph.graph)
        onnx.save(graph, folder / "model.onnx")
        (folder / "manifest.json").unlink()
        Manifest(kind="model", id=name, workload="fraud", uri=str(folder), files=hash_files(folder)).write()
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

    def roll_out(self) -> tuple[Any, Users]:
        """Start the challenger's canary and move it to its end, with users all the while."""
        with Users(self.state().gateway_port) as users:
            core.start(self.target(), self.registry, POLICY, time.time)
            decision = self.controller().run(0.3, threading.Event(), until_end=True)
            self.settled()
        return decision, users

    def settled(self) -> None:
        """Wait until one revision has all traffic and the other one is gone."""
        wait("one revision", lambda: [r.percent for r in self.state().services[0].revisions] == [100])
        wait("readiness", lambda: self.state().state == "ready")


@pytest.fixture(scope="module")
def world(tiny_model, small_world, tmp_path_factory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("home")
    env = os.environ | {
        "MILLRACE_HOME": str(home),
        "MILLRACE_HISTORY_LENGTH": str(HISTORY_LENGTH),
        "MILLRACE_GATEWAY_PORT": "18180",
        "MILLRACE_COMPANIONS": "",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    }
    small_world(env, days=15, customers=30, terminals=60)
    settings = Settings(home=home, history_length=HISTORY_LENGTH)
    world = World(settings, Registry(settings), Place(home), env, tiny_model)
    world.promote("champion")
    try:
        started = world.program("serving.local", "up")
        assert started.returncode == 0, started.stderr
        yield world
    finally:
        world.program("serving.local", "down")


def wait(what: str, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.05)


def constant(graph: onnx.GraphProto, name: str, value: Any) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def add_to_score(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], value: str) -> None:
    """`value` times nothing is added to the score: the nodes run and change no figure."""
    graph.node[-1].output[0] = "plain"
    zero = helper.make_node("Mul", [value, constant(graph, "zero", np.float32(0))], ["nothing"])
    graph.node.extend([*nodes, zero, helper.make_node("Add", ["plain", "nothing"], ["score"])])


def healthy(graph: onnx.GraphProto) -> None:
    """Another model that decides nearly alike."""
    bias = next(item for item in graph.initializer if item.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.float32([-2.001]), "bias"))


def skewed(graph: onnx.GraphProto) -> None:
    """Scores of another distribution."""
    bias = next(item for item in graph.initializer if item.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.float32([0.5]), "bias"))


def slow(graph: onnx.GraphProto) -> None:
    """A product of large matrices with every score."""
    shape = constant(graph, "large", np.int64([1600, 1600]))
    nodes = [
        helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", constant(graph, "tiny", np.float32(1e-6))], ["small"]),
        helper.make_node("Expand", ["small", shape], ["matrix"]),
        helper.make_node("MatMul", ["matrix", "matrix"], ["product"]),
        helper.make_node("ReduceMax", ["product"], ["slowly"], keepdims=0),
    ]
    add_to_score(graph, nodes, "slowly")


def failing(graph: onnx.GraphProto) -> None:
    """Reads past the end of a table for every real amount; the blank rows of the warm-up have none."""
    amount = constant(graph, "place", np.int64([FEATURE_NAMES.index("amount")]))
    nodes = [
        helper.make_node("Gather", ["features", amount], ["amounts"], axis=1),
        helper.make_node("ReduceMax", ["amounts"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", constant(graph, "none", np.float32(0))], ["real"]),
        helper.make_node("Cast", ["real"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", [constant(graph, "table", np.float32([1.0])), "index"], ["looked_up"]),
    ]
    add_to_score(graph, nodes, "looked_up")


def test_a_healthy_challenger_is_promoted_even_if_its_controller_is_killed(world):
    version = world.promote("healthy", healthy)
    before = served(world.settings)

    policy = world.settings.home / "policy.yaml"
    policy.write_text(yaml.safe_dump(json.loads(POLICY.model_dump_json())))
    with Users(world.state().gateway_port) as users:
        core.start(world.target(), world.registry, POLICY, time.time)
        command = [sys.executable, "-m", "serving.rollout", "--until-end", "--every=0.3", f"--policy={policy}"]
        with subprocess.Popen(command, env=world.env, stderr=subprocess.DEVNULL) as first:
            try:
                wait("the second step", lambda: world.percent() == 50, 120)
                during = served(world.settings)
            finally:
                first.send_signal(signal.SIGKILL)
        again = world.controller().run(0.3, threading.Event(), until_end=True)
        world.settled()

    assert again.action is Action.PROMOTE
    assert users.failures == []
    assert {str(before.version), str(version)} <= users.versions.keys()
    assert before == during
    assert served(world.settings).version == version
    assert world.registry.aliases() == {CHAMPION: version, PREVIOUS: before.version}
    assert "canaryTrafficPercent" not in world.document()["spec"]["predictor"]
    actions = [item["action"] for item in world.registry.history()]
    assert actions[-4:] == ["canary_started", "canary_advance", "canary_promote", "make_champion"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(slow, "latency"), (failing, "error rate"), (skewed, "score PSI")],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_bad_challenger_is_rolled_back_and_no_user_notices(world, change, reason):
    stable = served(world.settings)
    version = world.promote(change.__name__, change)
    assert world.registry.aliases()[CHALLENGER] == version

    decision, users = world.roll_out()

    assert users.failures == []
    assert users.sent > 100
    assert (decision.action, reason in decision.reason) == (Action.ROLL_BACK, True), decision
    assert served(world.settings) == stable
    assert canary.read(world.document()).phase == "rolled_back"
    assert CHALLENGER not in world.registry.aliases()
    assert world.registry.history()[-1]["action"] == "reject"
    assert reason in world.registry.history()[-1]["reason"]
    assert [item.model_version for item in world.state().services[0].revisions] == [str(stable.version)]
