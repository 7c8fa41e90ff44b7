"""What a predictor does while it lives: another model, overload, its metrics, and whatever a client may send.

One real process, of which the model's folder is a link that moves.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import free_port

from fraud.features import FEATURE_NAMES
from millrace.lake.manifest import Manifest
from millrace.registry.model_artifact import ModelArtifact
from serving.protocol import encode_v2_request

F, C, L = len(FEATURE_NAMES), 4, 8
NAME = "fraud-detector"
V1, V2, LOAD = f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer", f"/v2/repository/models/{NAME}/load"

pytestmark = pytest.mark.e2e


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int
    link: Path
    log: Path

    def call(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, Any]:
        status, _, answer = self.whole(method, path, body, headers)
        return status, answer

    def whole(self, method: str, path: str, body: bytes = b"", headers: Any = None) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            named = {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()
        return answer.status, named, json.loads(content) if content.startswith((b"{", b"[")) else content

    def serve(self, folder: Path) -> None:
        """The link moves at once, as a deployment would do it."""
        aside = self.link.with_name("aside")
        aside.symlink_to(folder)
        aside.replace(self.link)

    def load(self, **parameters: Any) -> tuple[int, Any]:
        return self.call("POST", LOAD, json.dumps({"parameters": parameters}).encode() if parameters else b"")

    def predict(self, amount: float = 50.0) -> dict[str, Any]:
        status, answer = self.call("POST", V1, body(amount))
        assert status == 200, answer
        return answer

    def metric(self, pattern: str) -> float:
        text = self.call("GET", "/metrics")[1].decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(pattern, line))


def body(amount: float = 50.0, past: float = 0.0) -> bytes:
    features = [0.0] * F
    features[FEATURE_NAMES.index("amount")] = amount
    return json.dumps({"instances": [{"features": features, "history": [[past, 0.0, 0.0, 0.0]] * L}]}).encode()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    pytest.fail(f"not in a minute: {what}")


def ready(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    try:
        return server.call("GET", f"/v2/models/{NAME}/ready")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def models(tiny_model) -> dict[str, Path]:
    return {
        "plain": tiny_model(),
        "other": tiny_model("other", threshold=0.25, sequence_length=4),
        "cascade": tiny_model("cascade", cascade=(0.2, 0.7)),
    }


@pytest.fixture(scope="module")
def server(models, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("predictor")
    port, grpc_port, link = free_port(), free_port(), folder / "model"
    link.symlink_to(models["plain"])
    command = [sys.executable, "-m", "serving.predictor.server", f"--model_name={NAME}", f"--model_dir={link}"]
    command += ["--host=127.0.0.1", f"--http_port={port}", f"--grpc_port={grpc_port}"]
    env = os.environ | {"MODEL_VERSION": "1", "MILLRACE_CACHE_TTL_S": "600", "MILLRACE_HOME": str(folder)}
    with (folder / "log").open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=env)
    made = Server(process, port, grpc_port, link, folder / "log")
    try:
        until(lambda: ready(made), "ready")
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture
def plain(server: Server, models: dict[str, Path]) -> Server:
    server.serve(models["plain"])
    assert server.load(model_version="1")[0] == 200
    return server


def test_the_folder_is_loaded_again_and_the_answers_say_so(plain: Server, models: dict[str, Path]):
    plain.serve(models["other"])
    before = plain.predict()

    status, answer = plain.load(model_version="2")

    assert (status, answer) == (200, {"name": NAME, "load": True, "model_version": "2"})
    assert (before["model_version"], before["decision_threshold"]) == ("1", 0.5)
    after = plain.predict()
    assert (after["model_version"], after["decision_threshold"]) == ("2", 0.25)


def test_a_version_that_nobody_named_is_called_by_its_id(plain: Server, models: dict[str, Path]):
    assert plain.load()[1]["model_version"] == "1"

    plain.serve(models["other"])

    assert plain.load()[1]["model_version"] == ModelArtifact.open(models["other"]).id


def test_a_signal_loads_the_folder_again(plain: Server, models: dict[str, Path]):
    plain.serve(models["other"])

    plain.process.send_signal(signal.SIGHUP)

    until(lambda: plain.predict()["decision_threshold"] == 0.25, "the other model answers")
    assert plain.predict()["model_version"] == ModelArtifact.open(models["other"]).id


def test_grpc_loads_the_folder_again(plain: Server, models: dict[str, Path]):
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    plain.serve(models["other"])
    with grpc.insecure_channel(f"127.0.0.1:{plain.grpc_port}") as channel:
        path = "/inference.GRPCInferenceService/RepositoryModelLoad"
        load = channel.unary_unary(
            path, pb.RepositoryModelLoadRequest.SerializeToString, pb.RepositoryModelLoadResponse.FromString
        )
        answer = load(pb.RepositoryModelLoadRequest(model_name=NAME), timeout=30)

    assert answer.isLoaded
    assert plain.predict()["decision_threshold"] == 0.25


def test_a_bad_folder_keeps_the_model_that_answers(plain: Server, tmp_path: Path, models: dict[str, Path]):
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("model.json", "model.onnx", "manifest.json"):
        (broken / name).write_bytes((models["other"] / name).read_bytes())
    (broken / "model.onnx").write_bytes(b"not a graph")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    Manifest(kind="snapshot", id="x", workload="fraud", uri=str(foreign), files={}).write()

    for folder in (broken, foreign, tmp_path / "nothing"):
        plain.serve(folder)
        status, answer = plain.load(model_version="9")
        assert (status, "kept: 1" in answer["error"]) == (503, True), answer
        plain.process.send_signal(signal.SIGHUP)
        assert plain.predict()["model_version"] == "1"
        assert ready(plain)
    assert plain.metric(r'millrace_model_reloads_total\{result="failed"\}') >= 3


def test_no_request_is_dropped_while_models_change(plain: Server, models: dict[str, Path]):
    statuses: list[tuple[int, str]] = []
    stop = threading.Event()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=10)
        for turn in range(10**6):
            if stop.is_set():
                break
            connection.request("POST", V1, body(number + turn / 1000))
            answer = connection.getresponse()
            document = json.loads(answer.read())
            pair = (document.get("model_version"), document.get("decision_threshold"))
            statuses.append((answer.status, "right" if pair in {("1", 0.5), ("2", 0.25)} else str(document)))
        connection.close()

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for one in clients:
        one.start()
    for turn in range(4):
        plain.serve(models[("other", "plain")[turn % 2]])
        assert plain.load(model_version=("2", "1")[turn % 2])[0] == 200
    stop.set()
    for one in clients:
        one.join()

    assert len(statuses) > 20
    assert set(statuses) == {(200, "right")}


def test_wrong_loads_and_unloads_are_refused(plain: Server):
    assert plain.load(model_version=3)[0] == 400
    assert plain.call("POST", LOAD, b"[]")[0] == 400
    assert plain.call("POST", LOAD.replace("/load", "/unload"))[0] == 400
    assert plain.call("POST", LOAD.replace(NAME, "other"))[0] in {404, 503}
    assert plain.predict()["model_version"] == "1"


def test_answers_say_which_stage_scored_each_row(plain: Server, models: dict[str, Path]):
    plain.serve(models["cascade"])
    plain.load(model_version="4")
    sure, unsure = (json.loads(body(amount, 500.0))["instances"][0] for amount in (0.0, 150.0))
    tensors = {
        "features": ("FP32", np.float32([sure["features"], unsure["features"]])),
        "history": ("FP32", np.float32([sure["history"], unsure["history"]])),
    }
    before = plain.metric(r'millrace_predictor_rows_total\{stage="cheap"\}')

    v1 = plain.call("POST", V1, json.dumps({"instances": [sure, unsure]}).encode())[1]
    again = plain.call("POST", V1, json.dumps({"instances": [sure, unsure]}).encode())[1]
    content, length = encode_v2_request({name: (kind, array[::-1]) for name, (kind, array) in tensors.items()})
    v2 = plain.call("POST", V2, content, {"Inference-Header-Content-Length": str(length)})[1]

    assert v1["stages"] == ["cheap", "full"]
    assert v1["predictions"] == pytest.approx([1 / (1 + np.e**2), 1 / (1 + np.exp(2 - 1.5 - 4.0))], rel=1e-4)
    assert again["stages"] == ["cache", "cache"]
    assert again["predictions"] == v1["predictions"]
    assert v2["outputs"][1] == {"name": "stage", "datatype": "BYTES", "shape": [2], "data": ["full", "cheap"]}
    assert plain.metric(r'millrace_predictor_rows_total\{stage="cheap"\}') == before + 2
    assert plain.metric(r'millrace_predictor_rows_total\{stage="cache"\}') >= 2


def test_a_reload_forgets_what_the_model_before_had_cached(plain: Server, models: dict[str, Path]):
    plain.predict(7.0)
    cached = plain.predict(7.0)

    plain.load(model_version="5")

    assert cached["stages"] == ["cache"]
    assert plain.predict(7.0)["stages"] == ["full"]


def test_answers_are_counted_and_timed_by_route(plain: Server):
    def count(route: str, code: int) -> float:
        labels = f'code="{code}",route="{route}",server="predictor"'
        return plain.metric(r"millrace_requests_total\{" + labels + r"\}")

    before = [count("v1", 200), count("v1", 400), count("v2", 400)]

    plain.predict()
    plain.call("POST", V1, b"{}")
    plain.call("POST", V2, b"{")
    event = {"ce-id": "1", "ce-type": "t", "ce-source": "s", "ce-specversion": "1.0"}
    plain.call("POST", V1, body(), event | {"content-type": "application/json"})

    after = [count("v1", 200), count("v1", 400), count("v2", 400)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 1]  # an event comes by the same route
    assert plain.metric(r'millrace_request_seconds_count\{route="v1",server="predictor"\}') >= 2
    assert plain.metric("millrace_batch_rows_count") > 0
    assert plain.metric("millrace_queue_rows ") == 0


def test_head_and_pipelined_requests_are_answered_whole(plain: Server):
    with socket.create_connection(("127.0.0.1", plain.port), timeout=10) as connection:
        request = body()
        post = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (V1.encode(), len(request))
        connection.sendall((post + request) * 2)
        received = b""
        while received.count(b"model_version") < 2:
            received += connection.recv(65536)
        connection.sendall(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        head = b""
        while part := connection.recv(65536):
            head += part

    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert head.startswith(b"HTTP/1.1 ")
    assert head.endswith(b"\r\n\r\n")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["instances", "features", "history", "inputs", "outputs", "name", "shape", "datatype", "data", "id"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
row = st.fixed_dictionaries(
    {
        "features": st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=F, max_size=F)
        | anything,
        "history": st.lists(st.lists(st.floats(-1e30, 1e30), min_size=C, max_size=C), min_size=L - 1, max_size=L + 1)
        | anything,
    }
)
tensor = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["features", "history"]) | st.text(max_size=4),
        "datatype": st.sampled_from(["FP32", "BYTES", "INT64"]) | anything,
        "shape": st.lists(st.integers(-1, 40), max_size=4) | anything,
        "data": st.lists(st.floats(-10, 10), max_size=F) | anything,
    },
    optional={"parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-4, 500)}) | anything},
)
documents = st.one_of(
    anything,
    st.fixed_dictionaries({"instances": st.lists(row | anything, max_size=3)}),
    st.fixed_dictionaries({"inputs": st.lists(tensor | anything, max_size=3)}, optional={"outputs": anything}),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([V1, V2, LOAD]),
    content=documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=40),
    length=st.none() | st.integers(-1, 200).map(str) | st.sampled_from(["x", "", "1e3"]),
)
def test_nothing_that_a_client_sends_is_an_internal_error(server: Server, path: str, content: bytes, length: Any):
    headers = {} if length is None else {"Inference-Header-Content-Length": length}

    status, answer = server.call("POST", path, content, headers)

    assert status in {200, 400, 413}, (path, content, answer)
    assert status == 200 or answer["error"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200), shape=st.lists(st.integers(-2, 40), max_size=3), datatype=st.text(max_size=5))
def test_no_grpc_request_is_an_internal_error(server: Server, raw: bytes, shape: list[int], datatype: str):
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    inputs = [{"name": "features", "datatype": datatype or "FP32", "shape": shape}, {"name": "history", "shape": shape}]
    request = pb.ModelInferRequest(model_name=NAME, inputs=inputs, raw_input_contents=[raw, raw])
    with (
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )(request, timeout=10)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
