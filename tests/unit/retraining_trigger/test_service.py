"""The trigger with real files, real processes and a real socket; the training itself is a program of three lines."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from millrace.errors import Unavailable
from millrace.lake.atomic import exclusive
from millrace.registry.retraining import Outcome, lock_path, now
from millrace.settings import Settings
from serving.retraining_trigger.core import PERSON, Request
from serving.retraining_trigger.launcher import LocalLauncher, Status, environment
from serving.retraining_trigger.service import Trigger

Alarm = Callable[..., Request]
PROGRAM = """
import pathlib, sys, time
from millrace.lake.atomic import exclusive
from millrace.registry.retraining import Outcome, lock_path, now
home, identity, seconds, runs = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
with exclusive(lock_path(home), "a retraining"):
    with open(runs, "a") as stream:
        stream.write(identity + "\\n")
    time.sleep(seconds)
    Outcome(id=identity, reason="r", outcome="declined", detail="the champion stays", champion=1, challenger=None,
            began_at=now(), ended_at=now()).write(home)
"""


class StandIn(LocalLauncher):
    """The local launcher with another program in the place of the training."""

    def __init__(self, settings: Settings, seconds: float = 0.0) -> None:
        super().__init__(settings)
        self.runs = settings.home / "runs.txt"
        self._seconds = seconds

    def start(self, identity: str, reason: str) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", PROGRAM, str(self._home), identity, str(self._seconds), str(self.runs)]
        self._child = subprocess.Popen(command, start_new_session=True)

    def begun(self) -> list[str]:
        return self.runs.read_text().split() if self.runs.is_file() else []

    def kill(self) -> None:
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()


def until(condition: Callable[[], bool], trigger: Trigger | None = None, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, trigger.status() if trigger else "not in time"
        if trigger:
            trigger.tick()
        time.sleep(0.01)


def test_an_alarm_leads_to_one_retraining_and_its_end_is_told(home: Settings, alarm: Alarm) -> None:
    launcher = StandIn(home)
    trigger = Trigger(home, launcher)

    trigger.take([alarm("a"), alarm("b")])
    until(lambda: bool(trigger.state.history), trigger)

    assert launcher.begun() == ["a"]
    (line,) = trigger.status()["history"]
    assert (line["outcome"], line["asked_by"]) == ("declined", ["a", "b"])
    records = [json.loads(line) for line in (home.home / "audit.jsonl").read_text().splitlines()]
    assert records[-1]["action"] == "retraining_asked"
    assert records[-1]["reason"] == "outcome: because of a; outcome: because of b"


def test_a_trigger_that_is_killed_finds_its_retraining_again(home: Settings, alarm: Alarm) -> None:
    launcher = StandIn(home, seconds=1.0)
    trigger = Trigger(home, launcher)
    trigger.take([alarm("a")])
    until(lambda: bool(launcher.begun()), trigger)

    reborn = Trigger(home, StandIn(home))  # knows nothing but what is on disk
    reborn.tick()
    still = reborn.state.running
    until(lambda: bool(reborn.state.history), reborn)
    launcher._child.wait()

    assert still is not None
    assert launcher.begun() == ["a"]
    assert reborn.state.history[-1]["attempts"] == 1


def test_a_retraining_that_was_killed_is_taken_up_again_under_its_id(home: Settings, alarm: Alarm) -> None:
    launcher = StandIn(home, seconds=30.0)
    trigger = Trigger(home, launcher)
    trigger.take([alarm("a")])
    until(lambda: bool(launcher.begun()), trigger)

    launcher.kill()
    launcher._seconds = 0.0
    until(lambda: bool(trigger.state.history), trigger)

    assert launcher.begun() == ["a", "a"]
    assert trigger.state.history[-1]["outcome"] == "declined"


def test_one_that_dies_again_and_again_is_reported(home: Settings, alarm: Alarm) -> None:
    class Dying(LocalLauncher):
        def start(self, identity: str, reason: str) -> None:
            path = self.log_path(identity)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("MemoryError\n")
            self._child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(9)"])

    trigger = Trigger(home, Dying(home))
    trigger.take([alarm("a")])
    until(lambda: bool(trigger.state.history), trigger)

    line = trigger.state.history[-1]
    assert (line["outcome"], line["attempts"]) == ("failed", 3)
    assert "MemoryError" in line["detail"]


def test_a_retraining_by_hand_is_waited_for(home: Settings, alarm: Alarm) -> None:
    launcher = LocalLauncher(home)

    with exclusive(lock_path(home.home), "a retraining by hand"):
        held = launcher.status("a")

    assert held == Status("running")
    assert launcher.status("a").where == "absent"


def test_one_that_takes_too_long_is_given_up(home: Settings, alarm: Alarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_RETRAINING_TIMEOUT_H", "0.00001")
    launcher = StandIn(home, seconds=60.0)
    trigger = Trigger(Settings(), launcher)
    trigger.take([alarm("a")])

    until(lambda: bool(trigger.state.history), trigger)
    launcher._child.wait(10)

    assert trigger.state.history[-1]["detail"] == "given up after 1e-05 hours"


def test_trouble_is_told_and_tried_again(home: Settings, alarm: Alarm) -> None:
    class Away(LocalLauncher):
        def start(self, identity: str, reason: str) -> None:
            raise Unavailable("KFP is away")

        def status(self, identity: str) -> Status:
            raise Unavailable("KFP is away")

    trigger = Trigger(home, Away(home))
    trigger.take([Request("p", PERSON, "", alarm("x").at)])

    with pytest.raises(Unavailable, match="away"):
        trigger.tick()

    assert trigger.state.running is not None
    assert Trigger(home, LocalLauncher(home)).state.running.id == "p"


def test_one_workload_waits_while_the_retraining_of_another_runs(home: Settings, alarm: Alarm) -> None:
    launcher, busy = StandIn(home), [True]
    trigger = Trigger(home, launcher, others_run=lambda: busy[0])
    trigger.take([alarm("a")])

    trigger.tick()
    waiting = trigger.state.waiting
    busy[0] = False
    until(lambda: bool(trigger.state.history), trigger)

    assert waiting is not None
    assert launcher.begun() == ["a"]


def test_what_was_set_for_one_workloads_data_is_not_for_another(home: Settings, monkeypatch) -> None:
    monkeypatch.setenv("MILLRACE_RETRAINING_SOURCE", "/data/cards")
    other = Settings().model_copy(update={"workload": "another", "retraining_source": "", "model_name": "other-model"})

    seen = environment(other)

    assert "MILLRACE_RETRAINING_SOURCE" not in seen
    assert (seen["MILLRACE_WORKLOAD"], seen["MILLRACE_MODEL_NAME"]) == ("another", "other-model")
    assert environment(Settings())["MILLRACE_RETRAINING_SOURCE"] == "/data/cards"


@pytest.fixture
def server(home: Settings) -> Iterator[tuple[str, Callable[[], subprocess.Popen[bytes]]]]:
    """A URL, and how to start the service on it; nothing is served from the home, so a retraining cannot begin."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []

    def start() -> subprocess.Popen[bytes]:
        env = os.environ | {"MILLRACE_RETRAINING_DEBOUNCE_S": "3600", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "serving.retraining_trigger", "--host=127.0.0.1", f"--http_port={port}"]
        processes.append(subprocess.Popen(command, env=env))
        until(lambda: _up(f"http://127.0.0.1:{port}/healthz"))
        return processes[-1]

    yield f"http://127.0.0.1:{port}", start
    for process in processes:
        process.kill()
        process.wait()


def _up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def event(identity: str, **changed: object) -> dict[str, object]:
    base = {
        "specversion": "1.0", "type": "io.millrace.drift", "id": identity, "time": "2018-09-01T00:00:00Z",
        "source": "/millrace/fraud-detector", "data": {"reason": "amount moved", "model_name": "fraud-detector"},
    }  # fmt: skip
    return base | changed


def test_alarms_survive_a_killed_service_and_bad_ones_change_nothing(server, home: Settings) -> None:
    url, start = server
    process = start()
    headers = {"content-type": "application/cloudevents+json"}
    good = httpx.post(url, json=event("a"), headers=headers)
    binary = httpx.post(
        url, json={"reason": "x"}, headers={f"ce-{k}": str(v) for k, v in event("b").items() if k != "data"}
    )
    bad = [
        httpx.post(url, json=event("c"), headers={"content-type": "text/plain"}),
        httpx.post(url, content=b"{", headers=headers),
        httpx.post(url, json=event("d", type="io.millrace.prediction"), headers=headers),
        httpx.post(url, json=event("e", data={"reason": "x", "model_name": "another"}), headers=headers),
        httpx.post(url, json=event("f", time="yesterday"), headers=headers),
        httpx.post(url, json=event("g", data={"reason": 5}), headers=headers),
        httpx.post(url, json=[event("h"), event("")], headers={"content-type": "application/cloudevents-batch+json"}),
        httpx.post(f"{url}/v1/retrain", json={}),
        httpx.post(f"{url}/v1/retrain", json={"reason": "x", "workload": "nobody"}),
        httpx.get(f"{url}/nowhere"),
    ]

    process.kill()
    process.wait()
    start()
    again = httpx.post(url, json=event("a"), headers=headers)
    status = httpx.get(f"{url}/v1/status").json()

    assert (good.status_code, binary.status_code) == (202, 202)
    assert good.json()["requests"][0]["answer"] == "accepted"
    assert [answer.status_code for answer in bad] == [400] * 9 + [404]
    assert again.json()["requests"][0]["answer"] == "seen before"
    assert status["waiting"]["asked_by"] == ["a", "b"]
    assert "drift: amount moved" in status["waiting"]["reason"]


def test_a_second_service_on_the_same_home_is_refused(server, home: Settings) -> None:
    _, start = server
    start()

    second = subprocess.run(
        [sys.executable, "-m", "serving.retraining_trigger", "--http_port=0"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert second.returncode == 1
    assert "already running" in second.stderr


def test_an_outcome_file_is_read_as_it_was_written(home: Settings) -> None:
    known = Outcome(
        id="a", reason="r", outcome="promoted", detail="v2", champion=1, challenger=2, began_at=now(), ended_at=now()
    )
    known.write(Path(home.home))

    assert LocalLauncher(home).status("a") == Status("ended", "promoted", "v2")
