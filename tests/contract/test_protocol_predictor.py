"""V1, V2 and gRPC against a real predictor process, written from the protocols' specifications."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from servers import free_port

from fraud.features import FEATURE_NAMES
from millrace.registry.model_artifact import ModelArtifact
from serving.protocol import encode_v2_request

F, C, L, N = len(FEATURE_NAMES), 4, 8, 64
NAME = "fraud-detector"
JSON_LENGTH = "Inference-Header-Content-Length"
GRPC = "inference.GRPCInferenceService"

pytestmark = pytest.mark.e2e


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int

    def call(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def v1(self, document: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        status, _, body = self.call("POST", f"/v1/models/{NAME}:predict", json.dumps(document).encode(), headers)
        return status, json.loads(body)

    def v2(self, document: Any) -> tuple[int, dict[str, Any]]:
        status, _, body = self.call("POST", f"/v2/models/{NAME}/infer", json.dumps(document).encode())
        return status, json.loads(body)


@pytest.fixture(scope="module")
def server(tiny_model, tmp_path_factory) -> Iterator[Server]:
    port, grpc_port = free_port(), free_port()
    log = tmp_path_factory.mktemp("predictor") / "log"
    arguments = [f"--model_name={NAME}", f"--model_dir={tiny_model()}", "--host=127.0.0.1"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "serving.predictor.server",
                *arguments,
                f"--http_port={port}",
                f"--grpc_port={grpc_port}",
            ],
            stdout=stream,
            stderr=stream,
            env=os.environ | {"MODEL_VERSION": "3"},
        )
        made = Server(process, port, grpc_port)
        try:
            wait_ready(made, log)
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) is not None


def wait_ready(server: Server, log: Any) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.process.poll() is None, log.read_text()
        try:
            if server.call("GET", f"/v2/models/{NAME}/ready")[0] == 200:
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"not ready: {log.read_text()}")


@pytest.fixture(scope="module")
def rows(tiny_model) -> tuple[np.ndarray, np.ndarray, list[float]]:
    random = np.random.default_rng(1)
    features = random.uniform(0, 100, (3, F)).astype(np.float32)
    history = random.uniform(0, 100, (3, L, C)).astype(np.float32)
    return features, history, ModelArtifact.open(tiny_model()).score(features, history).tolist()


def instances(features: np.ndarray, history: np.ndarray) -> dict[str, Any]:
    return {
        "instances": [{"features": f.tolist(), "history": h.tolist()} for f, h in zip(features, history, strict=True)]
    }


def tensors(features: np.ndarray, history: np.ndarray) -> dict[str, Any]:
    return {
        "id": "42",
        "inputs": [
            {"name": "features", "datatype": "FP32", "shape": list(features.shape), "data": features.ravel().tolist()},
            {"name": "history", "datatype": "FP32", "shape": list(history.shape), "data": history.tolist()},
        ],
    }


def test_health_readiness_and_metadata(server):
    assert server.call("GET", "/v2/health/live")[0] == 200
    assert server.call("GET", "/v2/health/ready")[0] == 200
    assert json.loads(server.call("GET", f"/v1/models/{NAME}")[2]) == {"name": NAME, "ready": True}
    assert json.loads(server.call("GET", "/v2")[2])["name"] == "kserve"
    metadata = json.loads(server.call("GET", f"/v2/models/{NAME}")[2])
    assert metadata["inputs"][0] == {"name": "features", "datatype": "FP32", "shape": [-1, F]}
    assert metadata["outputs"] == [
        {"name": "score", "datatype": "FP32", "shape": [-1]},
        {"name": "stage", "datatype": "BYTES", "shape": [-1]},
    ]


def test_v1_and_v2_in_json_and_binary_give_the_scores_of_the_artifact(server, rows):
    features, history, wanted = rows
    content, length = encode_v2_request({"features": ("FP32", features), "history": ("FP32", history)}, "42")

    v1 = server.v1(instances(features, history))
    v2 = server.v2(tensors(features, history))
    status, _, body = server.call("POST", f"/v2/models/{NAME}/infer", content, {JSON_LENGTH: str(length)})

    states = {"feature_service": "fraud_detection_v2", "generation": "served"}
    told = {"model_version": "3", "decision_threshold": 0.5, "history_length": 64, **states}
    assert v1 == (200, {"predictions": pytest.approx(wanted), "stages": ["full"] * 3, **told})
    assert v2[0] == status == 200
    assert v2[1] == json.loads(body)
    assert v2[1]["id"] == "42"
    assert v2[1]["model_version"] == "3"
    assert v2[1]["outputs"] == [
        {"name": "score", "datatype": "FP32", "shape": [3], "data": pytest.approx(wanted)},
        {"name": "stage", "datatype": "BYTES", "shape": [3], "data": ["full"] * 3},
    ]


def test_binary_output_follows_the_json_part(server, rows):
    features, history, wanted = rows
    document = tensors(features, history) | {"parameters": {"binary_data_output": True}, "outputs": [{"name": "score"}]}

    status, headers, body = server.call("POST", f"/v2/models/{NAME}/infer", json.dumps(document).encode())

    split = int(headers["inference-header-content-length"])
    assert status == 200
    assert json.loads(body[:split])["outputs"][0]["parameters"] == {"binary_data_size": 12}
    np.testing.assert_allclose(np.frombuffer(body[split:], "<f4"), wanted, rtol=1e-6)


def test_a_longer_history_is_cut_to_what_the_model_reads(server, rows):
    features, history, wanted = rows
    longer = np.concatenate([np.ones((3, N - L, C), np.float32), history], axis=1)

    assert server.v1(instances(features, longer))[1]["predictions"] == pytest.approx(wanted)
    assert "wanted 8 to 64" in server.v1(instances(features, history[:, 1:]))[1]["error"]


def test_a_cloud_event_is_answered_with_one(server, rows):
    features, history, wanted = rows
    headers = {
        "Ce-Id": "1",
        "Ce-Type": "t",
        "Ce-Source": "s",
        "Ce-Specversion": "1.0",
        "Content-Type": "application/json",
    }

    status, answered, body = server.call(
        "POST", f"/v1/models/{NAME}:predict", json.dumps(instances(features, history)).encode(), headers
    )

    assert status == 200
    assert answered["ce-type"] == "io.kserve.inference.response"
    assert json.loads(body)["predictions"] == pytest.approx(wanted)


def test_any_json_content_type_will_do(server, rows):
    features, history, _ = rows

    for kind in ("application/json; charset=utf-8", "text/plain", ""):
        assert server.v1(instances(features, history), **{"Content-Type": kind})[0] == 200


def broken() -> list[tuple[str, Any, str]]:
    good = {"features": [0.0] * F, "history": [[0.0] * C] * L}
    return [
        ("no instances", {}, "'instances' is missing"),
        ("empty", {"instances": []}, "no rows"),
        ("unknown key", {"instances": [good], "x": 1}, "unknown key 'x'"),
        ("no object", {"instances": [1]}, "instance 0 is a number"),
        ("unknown field", {"instances": [good | {"x": 1}]}, "field 'x' is unknown"),
        ("missing field", {"instances": [good, {"features": [0.0] * F}]}, "instance 1: field 'history' is missing"),
        ("short", {"instances": [good | {"features": [0.0]}]}, "features of the instances stack to [1, 1]"),
        ("text", {"instances": [good | {"features": ["a"] * F}]}, "features holds a string"),
        ("null", {"instances": [good | {"history": None}]}, "history holds a null"),
        ("ragged", {"instances": [good, good | {"features": [0.0]}]}, "ragged"),
        ("too big for FP32", {"instances": [good | {"features": [1e39] * F}]}, "features holds inf in row 0"),
    ]


@pytest.mark.parametrize(("document", "message"), [case[1:] for case in broken()], ids=[case[0] for case in broken()])
def test_a_wrong_v1_request_is_a_400_that_says_what_is_wrong(server, document, message):
    status, answer = server.v1(document)

    assert (status, message in answer["error"]) == (400, True), answer


def test_a_wrong_v2_request_is_a_400_that_says_what_is_wrong(server, rows):
    good = tensors(*rows[:2])
    features, history = good["inputs"]

    for inputs, message in (
        ([features], "tensor 'history' is missing"),
        ([features | {"datatype": "FP64"}, history], "'features' is 'FP64'; wanted FP32"),
        ([features | {"shape": [2, F]}, history], "came with"),
        ([features, history, features | {"name": "z"}], "unknown tensor 'z'"),
    ):
        status, answer = server.v2({"inputs": inputs})
        assert (status, message in answer["error"]) == (400, True), answer


def test_not_a_number_in_a_binary_tensor_is_refused(server, rows):
    features = rows[0].copy()
    features[1, 5] = np.nan
    content, length = encode_v2_request({"features": ("FP32", features), "history": ("FP32", rows[1])})

    status, _, body = server.call("POST", f"/v2/models/{NAME}/infer", content, {JSON_LENGTH: str(length)})

    assert status == 400
    assert b"features holds nan in row 1" in body


def test_too_much_is_a_413_and_the_wrong_place_a_404(server):
    rows_too_many = {"instances": [{"features": [], "history": []}] * 1025}

    assert server.v1(rows_too_many)[0] == 413
    assert server.call("POST", f"/v1/models/{NAME}:predict", b" " * (9 << 20))[0] == 413
    assert server.call("POST", "/v1/models/other:predict", b"{}")[0] == 404
    assert server.call("GET", "/v2/models/other/ready")[0] == 404
    assert server.call("GET", f"/v1/models/{NAME}:predict")[0] == 404


def test_grpc_gives_the_same_scores_raw_and_typed(server, rows):
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    features, history, wanted = rows
    shapes = [("features", features), ("history", history)]
    raw = pb.ModelInferRequest(
        model_name=NAME,
        id="7",
        inputs=[{"name": name, "datatype": "FP32", "shape": array.shape} for name, array in shapes],
        raw_input_contents=[array.tobytes() for _, array in shapes],
    )
    typed = pb.ModelInferRequest(
        model_name=NAME,
        inputs=[
            {
                "name": name,
                "datatype": "FP32",
                "shape": array.shape,
                "contents": {"fp32_contents": array.ravel().tolist()},
            }
            for name, array in shapes
        ],
    )
    wrong = pb.ModelInferRequest(model_name=NAME, inputs=[{"name": "features", "datatype": "INT64", "shape": [1]}])
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer = channel.unary_unary(
            f"/{GRPC}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )
        answers = [infer(request, timeout=10) for request in (raw, typed)]
        with pytest.raises(grpc.RpcError) as caught:
            infer(wrong, timeout=10)

    assert answers[0].id == "7"
    assert answers[0].model_version == "3"
    for answer in answers:
        np.testing.assert_allclose(np.frombuffer(answer.raw_output_contents[0], "<f4"), wanted, rtol=1e-6)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "'features' is 'INT64'" in caught.value.details()


def test_a_request_under_way_is_answered_before_the_server_stops(tiny_model, tmp_path):
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "serving.predictor.server", f"--model_name={NAME}"),
                *(
                    f"--model_dir={tiny_model()}",
                    "--host=127.0.0.1",
                    f"--http_port={port}",
                    f"--grpc_port={free_port()}",
                ),
            ],
            stdout=stream,
            stderr=stream,
        )
    wait_ready(Server(process, port, 0), log)
    body = json.dumps({"instances": [{"features": [0.0] * F, "history": [[0.0] * C] * L}]}).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(
        b"POST /v1/models/%s:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (NAME.encode(), len(body))
    )

    process.send_signal(signal.SIGTERM)
    connection.sendall(body)

    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.close()
    process.wait(30)
