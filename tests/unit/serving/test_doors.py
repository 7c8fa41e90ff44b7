"""A model's errors at its doors beside V1 and V2: gRPC, CloudEvents, paths that name a version."""

from __future__ import annotations

import asyncio
import gzip
import json
from types import SimpleNamespace

import grpc
import pytest
from grpc_interceptor.exceptions import GrpcException
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from millrace.errors import InvalidInput, ModelFault, NotFound, Unavailable
from serving.event_answers import events_too
from serving.lean import LeanRoutes, Reply
from serving.rpc import Service
from serving.server import HotModel
from serving.tensors import TensorSpec
from serving.versions import VERSION, VersionedPaths

EVENT = {"specversion": "1.0", "id": "7", "source": "s", "type": "t", "data": {"instances": []}}
STRUCTURED = {b"content-type": b"application/cloudevents+json; charset=utf-8"}


class Failing(HotModel):
    """A model of version 1 that raises what it was given."""

    inputs = (TensorSpec("x", "FP32", (-1,)),)

    def __init__(self, error: Exception) -> None:
        super().__init__("m")
        self.error = error

    async def serves(self, version):
        return version == "1"

    async def answer_v2(self, request, headers):
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("the predictor is away"), grpc.StatusCode.UNAVAILABLE),
        (NotFound("no such version"), grpc.StatusCode.NOT_FOUND),
        (InvalidInput("x" * 9000), grpc.StatusCode.INVALID_ARGUMENT),
        (ModelFault("not finite"), grpc.StatusCode.INTERNAL),
    ],
)
def test_an_error_has_its_grpc_code_and_a_text_that_fits_a_header(error, code):
    context = SimpleNamespace(invocation_metadata=lambda: ())
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1.0]}}
    request = pb.ModelInferRequest(model_name="m", inputs=[tensor])

    with pytest.raises(GrpcException) as caught:
        asyncio.run(Service(Failing(error), None, None).ModelInfer(request, context))

    assert caught.value.status_code == code
    assert 0 < len(caught.value.details) <= 2000


def asked(app, method: str, path: str, body: bytes = b"", headers: tuple = ()) -> tuple[int, dict]:
    """One request to an ASGI application."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


async def behind(scope, receive, send):
    body = json.dumps({"path": scope["path"], "version": dict(scope["headers"]).get(VERSION, b"").decode()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize(
    ("method", "rest", "status"),
    [("GET", "/1/ready", 200), ("GET", "/1", 200), ("GET", "/2/ready", 404), ("GET", "/2", 404), ("HEAD", "/2", 404)],
)
def test_a_version_is_served_or_not_found(method, rest, status):
    got, document = asked(VersionedPaths(Failing(ValueError()), behind=behind), method, f"/v2/models/m/versions{rest}")

    assert got == status
    assert "no version '2'" in document["error"] if status == 404 else document["version"] == "1"


def test_a_request_to_a_version_goes_on_with_it():
    app = VersionedPaths(Failing(ValueError()), behind=behind)

    assert asked(app, "POST", "/v2/models/m/versions/7/infer") == (200, {"path": "/v2/models/m/infer", "version": "7"})


def test_a_post_that_nobody_has_is_not_read_by_the_sdk():
    app = LeanRoutes({}, behind=behind, owned=("/v1/models/",))

    assert asked(app, "POST", "/v1/models/other:predict")[0] == 404
    assert asked(app, "POST", "/elsewhere") == (200, {"path": "/elsewhere", "version": ""})


async def echo(body, headers):
    return Reply(json.dumps({"id": headers.get(b"ce-id", b"").decode(), **json.loads(body)}).encode())


def test_an_event_in_structured_mode_is_answered_with_one_and_its_id_is_the_requests():
    reply = asyncio.run(events_too(echo, "m")(json.dumps(EVENT).encode(), STRUCTURED))

    answer = json.loads(reply.body)
    assert reply.content_type == b"application/cloudevents+json"
    assert answer["data"] == {"id": "7", "instances": []}
    assert (answer["type"], answer["source"]) == ("io.kserve.inference.response", "io.kserve.inference.m")


@pytest.mark.parametrize(
    "change", [{"id": ""}, {"id": 7}, {"type": None}, {"source": []}, {"data": None}, {"data": [1]}, {"specversion": 1}]
)
def test_an_event_that_lacks_something_is_refused(change):
    with pytest.raises(InvalidInput, match=next(iter(change))):
        asyncio.run(events_too(echo, "m")(json.dumps(EVENT | change).encode(), STRUCTURED))


async def reading(scope, receive, send):
    """What stands behind and takes bodies, as the drift detector's route for events does."""
    message = await receive()
    told = sorted(name.decode() for name, _ in scope["headers"])
    body = json.dumps({"got": message["body"].decode(), "more": message["more_body"], "headers": told}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def test_a_body_reaches_what_stands_behind_as_it_was_before_it_was_compressed():
    app = LeanRoutes({}, behind=reading)

    plain = asked(app, "POST", "/", gzip.compress(b"[1]"), ((b"content-encoding", b"gzip"), (b"x-one", b"1")))
    unknown = asked(app, "POST", "/", b"[1]", ((b"content-encoding", b"br"),))
    large = asked(app, "POST", "/", gzip.compress(b" " * (9 << 20)), ((b"content-encoding", b"gzip"),))

    assert plain == (200, {"got": "[1]", "more": False, "headers": ["content-length", "x-one"]})
    assert (unknown[0], "'br'" in unknown[1]["error"]) == (415, True)
    assert large[0] == 413
