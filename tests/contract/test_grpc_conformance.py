"""gRPC at a server alone and behind Envoy: metadata in bytes, versions, absurd tensors, bytes that are no message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import servers
from envoy_plane import Plane, routed, running
from grpc import StatusCode
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from fraud.features import FEATURE_NAMES

NAME = "fraud-detector"
F, L, C = len(FEATURE_NAMES), 8, 4
INFER = "/inference.GRPCInferenceService/ModelInfer"

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """What the predictor says."""
    return tmp_path_factory.mktemp("predictor") / "serving.predictor.server.log"


@pytest.fixture(scope="module")
def predictor(tiny_model, log) -> Iterator[servers.Server]:
    model, folder = tiny_model("conforming", history_length=16, every_input=True), log.parent
    arguments = (f"--model_name={NAME}", f"--model_dir={model}")
    ready = f"/v2/models/{NAME}/ready"
    with servers.running("serving.predictor.server", ready, folder, *arguments, MODEL_VERSION="1") as server:
        yield server


@pytest.fixture(scope="module")
def gateway(predictor, tmp_path_factory) -> Iterator[Plane]:
    service = routed(NAME, predictor.port, grpc_ports=(predictor.grpc_port,), timeout_s=30.0)
    with running(tmp_path_factory.mktemp("gateway"), service) as plane:
        yield plane


@pytest.fixture(scope="module", params=["alone", "behind Envoy"])
def channel(request) -> Iterator[grpc.Channel]:
    if request.param == "alone":
        port = request.getfixturevalue("predictor").grpc_port
    else:
        port = request.getfixturevalue("gateway").data_plane.entrance.grpc_port
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as made:
        yield made


def request(**changes: Any) -> Any:
    """One row of zeros, typed."""
    features = {"name": "features", "datatype": "FP32", "shape": [1, F], "contents": {"fp32_contents": [0.0] * F}}
    history = {"name": "history", "datatype": "FP32", "shape": [1, L, C], "contents": {"fp32_contents": [0.0] * L * C}}
    return pb.ModelInferRequest(**({"model_name": NAME, "id": "7", "inputs": [features, history]} | changes))


def refused(call: Callable[[], Any]) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("key", ["grpc-trace-bin", "grpc-tags-bin", "x-user-bin", "x-request-id-bin"])
def test_metadata_in_bytes_is_ignored(channel, key):
    answer = GRPCInferenceServiceStub(channel).ModelInfer(request(), metadata=((key, b"\x00\x00\xff"),), timeout=10)

    assert (answer.id, answer.model_version) == ("7", "1")


def test_the_version_that_serves_answers_and_no_other(channel):
    stub = GRPCInferenceServiceStub(channel)

    answer = stub.ModelInfer(request(model_version="1"), timeout=10)
    others = [
        refused(lambda: stub.ModelInfer(request(model_version="7"), timeout=10))[0],
        refused(lambda: stub.ModelReady(pb.ModelReadyRequest(name=NAME, version="7"), timeout=10))[0],
        refused(lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name=NAME, version="7"), timeout=10))[0],
    ]

    assert answer.model_version == "1"
    assert stub.ModelReady(pb.ModelReadyRequest(name=NAME, version="1"), timeout=10).ready
    assert others == [StatusCode.NOT_FOUND] * 3


ODD: dict[str, dict[str, Any]] = {
    "rows below nothing": {"shape": [-1, F]},
    "rows beyond memory": {"shape": [2**62, F]},
    "no shape": {"shape": []},
    "many dimensions": {"shape": [1] * 100},
    "another type": {"datatype": "FP64"},
    "an unknown type": {"datatype": "\u2028"},
    "another name": {"name": "x" * 100_000},
    "contents of another type": {"contents": {"int64_contents": [1] * F}},
    "not a number": {"contents": {"fp32_contents": [float("nan")] * F}},
    "no contents": {"contents": {}},
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_an_absurd_tensor_is_an_invalid_argument(channel, change):
    odd = request()
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, F], "contents": {"fp32_contents": [0.0] * F}}
    odd.inputs[0].CopyFrom(pb.ModelInferRequest.InferInputTensor(**(tensor | change)))

    code, details = refused(lambda: GRPCInferenceServiceStub(channel).ModelInfer(odd, timeout=10))

    assert code == StatusCode.INVALID_ARGUMENT
    assert details


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_name": "other"}, StatusCode.NOT_FOUND),
        ({"model_name": ""}, StatusCode.NOT_FOUND),
        ({"inputs": []}, StatusCode.INVALID_ARGUMENT),
        ({"raw_input_contents": [b""]}, StatusCode.INVALID_ARGUMENT),
        ({"raw_input_contents": [b"", b""]}, StatusCode.INVALID_ARGUMENT),
        ({"outputs": [{"name": "nothing"}]}, StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_is_no_request_of_this_model_is_refused(channel, changes, code):
    assert refused(lambda: GRPCInferenceServiceStub(channel).ModelInfer(request(**changes), timeout=10))[0] == code


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff", b"\x00" * 9, b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_the_callers_fault(channel, data):
    code, details = refused(lambda: channel.unary_unary(INFER)(data, timeout=10))

    assert code == StatusCode.INVALID_ARGUMENT, details


def test_a_refused_call_is_no_line_in_the_log(channel, log):
    refused(lambda: GRPCInferenceServiceStub(channel).ModelInfer(request(model_name="other"), timeout=10))
    refused(lambda: channel.unary_unary(INFER)(b"\xff", timeout=10))

    assert "Traceback" not in log.read_text()


def test_the_repository_is_answered(channel):
    stub = GRPCInferenceServiceStub(channel)

    loaded = stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=NAME), timeout=30)
    other, _ = refused(lambda: stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="x"), timeout=10))
    unload, _ = refused(
        lambda: stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=NAME), timeout=10)
    )

    assert loaded.isLoaded
    assert (other, unload) == (StatusCode.NOT_FOUND, StatusCode.INVALID_ARGUMENT)
