"""A challenger among users: a healthy one is promoted; bad ones are rolled back soon, for what they are, unnoticed.

Real servers on a small simulated world under light load; the models are one small graph, changed (`bad_graphs.py`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bad_graphs
import pytest
import yaml
from bad_graphs import healthy
from canaries import CLIENTS, HISTORY_LENGTH, POLICY, Users, World, kill_the_canary, wait

from millrace.registry.models import CHALLENGER, CHAMPION, PREVIOUS, Registry, served
from millrace.rollout import canary
from millrace.rollout.decision import Action
from millrace.settings import Settings
from serving.local.state import Place
from serving.rollout import core

ROOT = Path(__file__).parents[3]
MOST_S = 20.0
"""Traffic that a bad canary gets."""

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


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
    [
        (bad_graphs.slow, "latency"),
        (bad_graphs.failing, "error rate"),
        (bad_graphs.skewed, "score PSI"),
        (bad_graphs.not_a_number, "answers that are no scores"),
        (bad_graphs.misshapen, "answers that are no scores"),
        (bad_graphs.always_the_same, "equal scores"),
        (bad_graphs.past_patience, "error rate"),
        (bad_graphs.greedy, "memory MB"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_bad_challenger_is_rolled_back_and_no_user_notices(world, change, reason, record_property):
    stable = served(world.settings)
    version = world.promote(change.__name__, change)
    assert world.registry.aliases()[CHALLENGER] == version

    decision, users = world.roll_out()

    rolled_back(world, stable, decision, users, reason, record_property)


@pytest.mark.parametrize(
    ("clients", "reason"), [(CLIENTS, "error rate"), (0, "ends of its processes 2 (limit 1, by SIGKILL)")]
)
def test_a_challenger_whose_process_dies_again_and_again_is_rolled_back(world, clients, reason, record_property):
    stable = served(world.settings)
    version = world.promote(f"dying, {clients} clients", healthy)
    assert world.registry.aliases()[CHALLENGER] == version

    decision, users = world.roll_out(kill_the_canary, clients)

    rolled_back(world, stable, decision, users, reason, record_property)


def test_a_challenger_for_other_features_is_rolled_back_before_it_is_asked(world, record_property):
    stable = served(world.settings)
    version = world.promote("other features", spec=bad_graphs.other_features)

    decision, users = world.roll_out()

    rolled_back(world, stable, decision, users, "its server ended 3 times before it was ready", record_property)
    assert "amount_in_another_currency" in decision.reason
    assert str(version) not in users.versions


def rolled_back(
    world: World, stable: Any, decision: Any, users: Users, reason: str, record: Callable[[str, object], None]
) -> None:
    """It is; soon, for that reason, and everything is as before."""
    seconds = world.seconds_of_traffic()
    record("seconds_of_traffic", seconds)
    print(f"rolled back after {seconds:.1f} s: {decision.reason}")
    assert users.failures == []
    assert users.sent > 30 or not users.clients
    assert (decision.action, reason in decision.reason) == (Action.ROLL_BACK, True), decision
    assert seconds <= MOST_S
    assert served(world.settings) == stable
    assert canary.read(world.document()).phase == "rolled_back"
    assert CHALLENGER not in world.registry.aliases()
    assert world.registry.history()[-1]["action"] == "reject"
    assert reason in world.registry.history()[-1]["reason"]
    assert [item.model_version for item in world.state().services[0].revisions] == [str(stable.version)]
