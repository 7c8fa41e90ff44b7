"""Prediction events: what they say, and that an answer is given when its events are safe."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from kserve import InferInput, InferRequest

from fraud.features import FEATURE_NAMES, FEATURE_SERVICE
from millrace.errors import Unavailable
from millrace.events.sqlite_stream import SqliteStream
from millrace.installed import load
from millrace.pseudonyms import pseudonym
from serving.rpc import Service
from serving.transformer.core import Scored
from serving.transformer.fit import require_fit


def run(scenario):
    return asyncio.run(scenario)


def test_every_scored_row_becomes_an_event_as_the_contract_says(lab, options):
    async def scenario():
        async with lab.predictor("7", 0.75).running() as model, lab.serving(model.address, options()) as path:
            rows = [lab.transaction(1), lab.transaction(2, customer="d")]
            await path.predict(*rows, x_request_id="abc", traceparent="00-1-2-01")

    run(scenario())

    first, second = lab.told(options())
    data = first.pop("data")
    when = datetime.fromisoformat(first.pop("time"))
    assert first == {
        "specversion": "1.0",
        "type": "io.millrace.prediction",
        "id": "abc:0",
        "source": "/millrace/fraud-detector",
        "subject": "1",
        "datacontenttype": "application/json",
        "traceparent": "00-1-2-01",
    }
    assert second["id"] == "abc:1"
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert 0 < data.pop("latency_ms") < 10_000
    features = data.pop("features")
    assert len(features) == len(FEATURE_NAMES)
    assert features[FEATURE_NAMES.index("amount")] == 12.5
    assert data == {
        "workload": "fraud",
        "event_id": 1,
        "event_timestamp": "2018-09-30T12:00:00Z",
        "keys": {"customer_id": pseudonym("c", b"key"), "terminal_id": "t"},
        "fields": {"amount": 12.5},
        "model_name": "fraud-detector",
        "model_version": "7",
        "score": 0.75,
        "decision": "review",
        "degraded": False,
        "stage": "full",
        "arm": "champion",
        "feature_service": FEATURE_SERVICE,
    }


def test_what_comes_over_grpc_is_told_as_what_comes_over_rest(lab, options):
    """KServe's logger, here and on a cluster, knows REST alone: this is the only record of a gRPC call."""
    first, second = lab.transaction(1), lab.transaction(2)
    datatypes = {int: ("INT64", np.int64), float: ("FP64", np.float64), str: ("BYTES", np.object_)}
    tensors = []
    for name in first:
        datatype, dtype = datatypes[type(first[name])]
        tensors.append(InferInput(name, [2], datatype))
        tensors[-1].set_data_from_numpy(np.array([first[name], second[name]], dtype))

    async def scenario():
        async with lab.predictor("7", 0.75).running() as model, lab.serving(model.address, options()) as path:
            request = InferRequest(lab.NAME, tensors).to_grpc()
            metadata = SimpleNamespace(invocation_metadata=lambda: (("x-request-id", "call"), ("x-bin", b"\0\xff")))
            return await Service(path.model, None, None).ModelInfer(request, metadata)

    answer = run(scenario())

    told = {event["id"]: event["data"] for event in lab.told(options())}
    assert (answer.model_name, answer.model_version) == (lab.NAME, "7")
    assert {id_: (row["event_id"], row["score"]) for id_, row in told.items()} == {
        "call:0": (1, 0.75),
        "call:1": (2, 0.75),
    }


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"ce_id": "e", "x_request_id": "r"}, "e"),
        ({"x_request_id": "r"}, "r"),
        ({}, None),
        ({"x_request_id": "\x01" * 8}, None),
        ({"x_request_id": "x" * 500}, None),
    ],
)
def test_the_request_id_is_the_clients_or_made_and_said_in_answer_predictor_and_event(lab, options, headers, wanted):
    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options()) as path:
            reply = await path.predict(lab.transaction(), tracestate="a=1", **headers)
        return reply, model.asked[0].headers, lab.told(options())[0]

    reply, asked, event = run(scenario())

    request_id = reply.headers["x-request-id"]
    assert request_id == wanted if wanted else len(request_id) == 32
    assert (asked["x-request-id"], asked["tracestate"]) == (request_id, "a=1")
    assert asked.get("ce-id") == headers.get("ce_id")
    assert event["id"] == f"{request_id}:0"
    assert "traceparent" not in event


@pytest.mark.parametrize("trace", ["0" * 300, "not visible"])
def test_a_traceparent_that_no_event_may_say_costs_the_event_nothing_else(lab, options, trace):
    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction(1), traceparent=trace)

    reply = run(scenario())

    (event,) = lab.told(options())
    assert reply.status == 200
    assert event["data"]["event_id"] == 1
    assert "traceparent" not in event


def test_an_event_is_on_the_stream_when_its_answer_is_given(lab, options):
    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options()) as path:
            for number in range(1, 4):
                await path.predict(lab.transaction(number))
                assert len(lab.told(options())) == number

    run(scenario())


def test_requests_at_once_share_an_append_and_each_has_its_events(lab, options, monkeypatch):
    appends = []
    real = SqliteStream.append

    def append(self, topic, events, ids):
        appends.append(len(events))
        real(self, topic, events, ids)

    monkeypatch.setattr(SqliteStream, "append", append)

    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options()) as path:
            customers = (lab.transaction(number, customer=f"c{number}") for number in range(200))
            replies = await asyncio.gather(*(path.predict(one) for one in customers))
            return [reply.status for reply in replies]

    assert run(scenario()) == [200] * 200
    assert len(lab.told(options())) == sum(appends) == 200
    assert len(appends) < 200


def test_no_answer_goes_out_while_the_streams_disk_refuses(lab, options, monkeypatch):
    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options()) as path:
            with monkeypatch.context() as patched:
                patched.setattr(SqliteStream, "append", refuse)
                refused = await path.predict(lab.transaction(1))
            return refused, await path.predict(lab.transaction(1))

    def refuse(*_):
        raise Unavailable("the event stream in /full cannot be used: disk full. Look at that folder.")

    refused, answered = run(scenario())

    assert refused.status == 503
    assert refused.document == {"error": "the event stream in /full cannot be used: disk full. Look at that folder."}
    assert answered.status == 200
    assert [event["data"]["event_id"] for event in lab.told(options())] == [1]


def test_an_answer_waits_for_the_stream_no_longer_than_its_deadline(lab, options, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(SqliteStream, "append", lambda *_: go.wait(30))

    async def scenario():
        async with (
            lab.predictor().running() as model,
            lab.serving(model.address, options(deadline_ms=300)) as path,
        ):
            reply = await path.predict(lab.transaction(1))
            go.set()
            return reply

    assert run(scenario()).status == 504


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"score": [1.5]}, "no score of 'fraud'"),
        ({"score": [float("nan")]}, "no finite number"),
        ({"stage": ["memory"]}, "stages; wanted full, cheap, cache"),
        ({"stage": ["full", "full"]}, "2 stages"),
        ({"version": "3" * 300}, "wanted a short text"),
    ],
)
def test_an_answer_of_the_predictor_that_no_event_may_say_is_refused(said, fault):
    outputs = {"score": np.float32(said.get("score", [0.5]))}
    scored = Scored(outputs, said.get("version", "3"), 0.5, 4, tuple(said.get("stage", ())))

    with pytest.raises(Unavailable, match=fault):
        require_fit(load("fraud"), scored, 4)
