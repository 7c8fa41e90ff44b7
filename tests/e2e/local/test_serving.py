"""The servers on this machine, from `up` to `down`: real processes, a real Feast store, a small simulated world."""

from __future__ import annotations

import http.client
import json
import math
import os
import shlex
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from feast import FeatureStore
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from millrace.inputs import RecentEvents
from millrace.installed import load
from millrace.lake.feast_home import repository
from millrace.lookup import recent_of
from millrace.pseudonyms import pseudonym
from millrace.registry.models import Registry
from millrace.rollout import service as templates
from millrace.settings import Settings
from serving.local import commands
from serving.local.state import LocalState, Place

ROOT = Path(__file__).parents[3]
HISTORY_LENGTH = 16
LAST_DAY = "2018-05-10"

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@dataclass
class World:
    place: Place
    feature_set: Path
    model: Path
    manifest: Path
    env: dict[str, str]

    def local(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serving.local", *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=240, check=False)

    def state(self) -> LocalState:
        state = self.place.read()
        assert state is not None
        return state

    def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.state().gateway_port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, named)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def predict(self, **changes: Any) -> dict[str, Any]:
        status, answer = self.call("POST", V1, json.dumps({"instances": [transaction(**changes)]}).encode())
        assert status == 200, answer
        return answer["predictions"][0]


V1, V2 = "/v1/models/fraud-detector:predict", "/v2/models/fraud-detector/infer"


def transaction(**changes: Any) -> dict[str, Any]:
    base = {
        "transaction_id": 10**12,
        "event_timestamp": "2018-05-11T12:00:00Z",
        "customer_id": "nobody",
        "terminal_id": "nowhere",
        "amount": 50.0,
    }
    return base | changes


def promoted(home: Path, model: Path, version: str) -> Path:
    """What promotion does: the version's own copy of the model, and the manifest that names it."""
    shutil.copytree(model, Registry(Settings(home=home)).folder(int(version)))
    return render(home / "serving" / "fraud-detector.yaml", model, version)


def render(manifest: Path, model: Path, version: str) -> Path:
    """What promotion does to the manifest."""
    document = yaml.safe_load(templates.inference_service(load("fraud")))
    document["metadata"]["annotations"]["millrace.io/model-version"] = version
    for variable in document["spec"]["predictor"]["containers"][0]["env"]:
        variable |= {"STORAGE_URI": {"value": model.as_uri()}, "MODEL_VERSION": {"value": version}}.get(
            variable["name"], {}
        )
    manifest.write_text(yaml.safe_dump(document), encoding="utf-8")
    return manifest


@pytest.fixture(scope="module")
def world(tiny_model, small_world, tmp_path_factory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("home")
    env = os.environ | {
        "MILLRACE_HOME": str(home),
        "MILLRACE_HISTORY_LENGTH": str(HISTORY_LENGTH),
        "MILLRACE_GATEWAY_PORT": "18080",
        "MILLRACE_COMPANIONS": "prediction-log",
        "PYTHONWARNINGS": "ignore",
        "PYTHONOPTIMIZE": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    }
    feature_set = small_world(env, days=40, customers=150, terminals=300)
    model = tiny_model("every-input", history_length=HISTORY_LENGTH, every_input=True)
    manifest = promoted(home, model, "1")
    world = World(Place(home), feature_set, model, manifest, env)
    try:
        started = world.local("up")
        assert started.returncode == 0, started.stderr
        yield world
    finally:
        world.local("down")
        assert not world.place.alive()


def wait(what: str, condition: Any, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.05)


def test_a_replayed_day_scores_as_offline_and_again_the_second_time(world):
    fill = ["components.materialize", str(world.feature_set), "--generation", "served", "--follow"]
    refresh = shlex.join([sys.executable, "-O", "-m", *fill])
    place = (f"--feature-set={world.feature_set}", f"--model={world.model}", f"--day={LAST_DAY}")
    for _ in range(2):
        done = world.local("replay", *place, f"--refresh={refresh}")
        report = json.loads(world.place.replay("fraud-detector").read_text())

        assert done.returncode == 0, done.stdout + done.stderr
        assert report["equal"] is True
        assert report["rows"] > 100  # a whole day, over every refresh of terminal states
        assert report["degraded"] == 0
        assert report["max_difference"] < 1e-5


def test_grpc_through_the_gateway_gives_what_rest_gives_and_is_logged(world):
    fields = transaction(transaction_id=10**12 + 77)
    kinds = {int: ("INT64", "int64_contents"), float: ("FP64", "fp64_contents"), str: ("BYTES", "bytes_contents")}
    tensors = []
    for name, value in fields.items():
        datatype, contents = kinds[type(value)]
        data = {contents: [value.encode() if isinstance(value, str) else value]}
        tensors.append(pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=[1], contents=data))

    with grpc.insecure_channel(f"127.0.0.1:{world.state().grpc_port}") as channel:
        server = GRPCInferenceServiceStub(channel)
        ready = server.ModelReady(pb.ModelReadyRequest(name="fraud-detector"), timeout=30).ready
        answer = server.ModelInfer(pb.ModelInferRequest(model_name="fraud-detector", inputs=tensors), timeout=30)

    raw = {output.name: raw for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)}
    assert ready
    wait("the call is in the prediction log", lambda: logged(world, fields["transaction_id"]))
    (score,) = struct.unpack("<f", raw["score"])
    assert logged(world, fields["transaction_id"]) == [pytest.approx(score, abs=1e-6)]
    assert score == pytest.approx(world.predict(**fields)["score"], abs=1e-6)


def logged(world: World, transaction_id: int) -> list[float]:
    """Scores of a transaction in the prediction log; the gateway's logger does not see what comes over gRPC."""
    database = world.place.home / "prediction_log" / "log.db"
    if database.is_file():
        with closing(sqlite3.connect(database)) as connection, suppress(sqlite3.OperationalError):  # no table yet
            rows = connection.execute("SELECT score FROM predictions WHERE event_id = ?", [transaction_id])
            return [score for (score,) in rows]
    return []


def test_a_replay_against_another_model_is_not_equal(world, tiny_model):
    other = tiny_model("other", history_length=HISTORY_LENGTH)

    done = world.local(
        "replay", f"--feature-set={world.feature_set}", f"--model={other}", f"--day={LAST_DAY}", "--limit=20"
    )

    assert done.returncode == 1
    assert "NOT EQUAL" in done.stdout


def test_the_next_prediction_sees_the_one_before_it(world):
    alone = world.predict(transaction_id=1, customer_id="next")
    after = world.predict(transaction_id=2, customer_id="next", event_timestamp="2018-05-11T12:00:01Z")
    again = world.predict(transaction_id=1, customer_id="next")

    assert logit(after["score"]) != pytest.approx(logit(alone["score"]), abs=1e-3)
    assert again["score"] == alone["score"]
    assert alone["degraded"] is False


def test_a_killed_transformer_remembers_what_it_answered(world):
    first = world.predict(transaction_id=11, customer_id="kill")
    process = world.state().processes[1]
    os.kill(process.pid, signal.SIGKILL)
    wait("a restart", lambda: world.state().processes[1].restarts > process.restarts)
    wait("readiness", lambda: world.state().state == "ready")

    after = world.predict(transaction_id=12, customer_id="kill", event_timestamp="2018-05-11T12:00:01Z")
    fresh = world.predict(transaction_id=13, customer_id="fresh", event_timestamp="2018-05-11T12:00:01Z")

    assert after["score"] != pytest.approx(fresh["score"], abs=1e-6)
    assert first["score"] != after["score"]


def test_scored_events_reach_feasts_own_rows(world):
    home = world.place.home
    name = pseudonym("pushed", Settings(home=home).pseudonym_secret())
    for number in (21, 22):
        world.predict(transaction_id=number, customer_id="pushed", amount=number)

    feast = FeatureStore(str(repository(home, "fraud", "served")))
    customers = load("fraud").recent
    assert customers is not None
    names = [f"{customers.name}:{field}" for field in customers.fields]

    def pushed() -> list[RecentEvents]:
        return recent_of(feast.get_online_features(names, [{"customer_id": name}]).to_dict(), customers)

    wait("a push", lambda: len(pushed()[0]) == 2)

    (state,) = pushed()
    assert state.event_ids.tolist() == [21, 22]
    assert state.values[0].tolist() == [2100, 2200]


def test_v2_answers_the_same_as_v1(world):
    row = transaction(transaction_id=31, customer_id="both", amount=400.0)
    v1 = world.predict(**row)
    kinds = {"transaction_id": "INT64", "amount": "FP64"}
    inputs = [
        {"name": name, "datatype": kinds.get(name, "BYTES"), "shape": [1], "data": [value]}
        for name, value in row.items()
    ]

    status, answer = world.call("POST", V2, json.dumps({"id": "a", "inputs": inputs}).encode())

    outputs = {output["name"]: output["data"][0] for output in answer["outputs"]}
    assert status == 200
    assert answer["id"] == "a"
    assert outputs.pop("score") == pytest.approx(v1.pop("score"), rel=1e-6)
    assert json.loads(outputs.pop("reasons")) == v1.pop("reasons")
    assert (v1.pop("unseen"), json.loads(outputs.pop("unseen"))) == (["customer", "terminal"], ["terminal"])
    assert outputs == v1


def test_a_flagged_transaction_says_why(world):
    answer = world.predict(transaction_id=41, customer_id="why", amount=20.0)
    flagged = world.predict(transaction_id=42, customer_id="why", amount=900.0, event_timestamp="2018-05-11T12:00:01Z")

    assert (answer["decision"], answer["reasons"]) == ("approve", [])
    assert flagged["decision"] == "review"
    assert flagged["reasons"][0]["input"] == "amount"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b'{"instances": []}', 400, "no rows"),
        (json.dumps({"instances": [transaction(amount=-1)]}).encode(), 400, "row 0: field 'amount' is -1"),
        (json.dumps({"instances": [transaction(terminal_id=None)]}).encode(), 400, "field 'terminal_id'"),
        (b'{"instances": [{"amount": NaN}]}', 400, "not JSON"),
        (json.dumps({"instances": [transaction()] * 1025}).encode(), 413, "at most 1024"),
    ],
)
def test_a_wrong_request_is_refused_through_the_whole_path(world, body, status, message):
    got, answer = world.call("POST", V1, body)

    assert (got, message in answer["error"]) == (status, True), answer


def test_a_further_field_is_passed_over(world):
    plain, more = (json.dumps({"instances": [transaction(**x)]}).encode() for x in ({}, {"x": 1}))

    got, answer = world.call("POST", V1, more, x_millrace_dry_run="true")

    assert got == 200
    assert answer["predictions"] == world.call("POST", V1, plain, x_millrace_dry_run="true")[1]["predictions"]


def test_routes_of_the_gateway(world):
    assert world.call("GET", "/healthz") == (200, {"status": "ok"})
    assert world.call("GET", "/v2/models/fraud-detector/ready")[0] == 200
    assert world.call("GET", "/elsewhere")[0] == 404
    assert world.call("POST", V1, b"{}", x_millrace_keys="raw")[0] == 400


def test_up_again_changes_nothing_and_status_shows_it(world):
    before = [process.pid for process in world.state().processes]

    again, shown = world.local("up"), world.local("status")

    assert again.returncode == shown.returncode == 0
    assert [process.pid for process in world.state().processes] == before
    assert "transformer" in shown.stdout
    assert "model version 1" in shown.stdout


def test_predict_from_the_command_line(world):
    done = world.local("predict", "amount=57.16")

    assert done.returncode == 0, done.stderr
    assert '"decision"' in done.stdout
    assert "nothing in" not in world.local("logs", "predictor").stdout


def test_a_predictor_that_died_is_started_again_and_until_then_requests_get_503(world):
    process = world.state().processes[0]
    os.kill(process.pid, signal.SIGKILL)

    body = json.dumps({"instances": [transaction(transaction_id=51)]}).encode()
    status, _ = world.call("POST", V1, body)
    wait("readiness", lambda: world.state().processes[0].restarts > process.restarts and world.state().state == "ready")

    assert status == 503
    assert world.call("POST", V1, body)[0] == 200


def test_another_version_replaces_the_running_one(world, tiny_model):
    promoted(world.place.home, tiny_model("every-input", history_length=HISTORY_LENGTH, every_input=True), "2")

    done = world.local("up")

    assert done.returncode == 0, done.stderr
    assert world.predict(transaction_id=61)["model_version"] == "2"


def test_a_killed_supervisor_costs_no_answer_and_the_next_one_goes_on(world):
    before = world.state()
    pids = [process.pid for process in before.processes]

    os.kill(before.pid, signal.SIGKILL)
    for number in range(20):
        assert world.predict(transaction_id=71 + number)["degraded"] is False
    wait("the next one", lambda: world.place.alive() and world.state().pid != before.pid)
    wait("readiness", lambda: world.state().state == "ready")

    assert [process.pid for process in world.state().processes] == pids


def test_nothing_acknowledged_is_lost_while_everything_is_killed(world):
    kinds = ("envoy", "transformer", "predictor", "prediction-log", "supervisor")
    options = ("--seed=1", "--kills=1", "--apart", "0.5", "1.5", "--rate=40", "--only", *kinds)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *options],
        env=world.env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((world.place.home / "bench" / "chaos.json").read_text())
    assert report["kills"] == len(kinds)
    assert (report["missing"], report["twice"], report["states_wrong"]) == (0, 0, 0)
    assert report["acknowledged"] > 100
    assert report["states"] == 50
    assert report["by_kind"]["supervisor"]["failures"] == 0


def test_without_a_server_the_commands_say_what_to_do(tmp_path):
    place = Place(tmp_path)

    assert commands.down(place) is False
    with pytest.raises(commands.Unavailable, match="make up"):
        commands.predict(place, "fraud-detector", transaction())
    with pytest.raises(commands.NotFound, match="Promote a model first"):
        commands.up(place, place.manifest("fraud-detector"))


def logit(score: float) -> float:
    return math.log(score / (1 - score))
