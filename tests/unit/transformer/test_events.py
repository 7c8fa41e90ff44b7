"""Prediction events: what they say, and that whoever watches never slows or fails an answer."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from kserve import InferInput, InferRequest

from fraud.features import FEATURE_NAMES, FEATURE_SERVICE
from millrace.errors import ConfigError
from millrace.pseudonyms import pseudonym
from serving.rpc import Service
from serving.transformer import sinks
from serving.transformer.sinks import Address


def run(scenario):
    return asyncio.run(scenario)


def test_every_scored_row_becomes_an_event_as_the_contract_says(lab, options):
    async def scenario():
        async with lab.predictor("7", 0.75).running() as model, lab.sink().running() as sink:
            settings = options(event_sinks=f"http://{sink.address}/events?x=1")
            async with lab.serving(model.address, settings) as path:
                rows = [lab.transaction(1), lab.transaction(2, customer="d")]
                await path.predict(*rows, x_request_id="abc", traceparent="00-1-2-01")
        return sink

    sink = run(scenario())

    (asked,) = sink.asked
    first, second = lab.events_of(sink)
    data = first.pop("data")
    when = datetime.fromisoformat(first.pop("time"))
    assert asked.path == "/events?x=1"
    assert asked.headers["content-type"] == "application/cloudevents-batch+json"
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
        async with lab.predictor("7", 0.75).running() as model, lab.sink().running() as sink:
            settings = options(event_sinks=f"http://{sink.address}/")
            async with lab.serving(model.address, settings) as path:
                request = InferRequest(lab.NAME, tensors).to_grpc()
                metadata = SimpleNamespace(invocation_metadata=lambda: (("x-request-id", "call"), ("x-bin", b"\0\xff")))
                answer = await Service(path.model, None, None).ModelInfer(request, metadata)
        return sink, answer

    sink, answer = run(scenario())

    told = {event["id"]: event["data"] for event in lab.events_of(sink)}
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
        async with (
            lab.predictor().running() as model,
            lab.sink().running() as sink,
            lab.serving(model.address, options(event_sinks=f"http://{sink.address}")) as path,
        ):
            reply = await path.predict(lab.transaction(), tracestate="a=1", **headers)
            await lab.until("delivery", lambda: sink.asked)
        return reply, model.asked[0].headers, lab.events_of(sink)[0]

    reply, asked, event = run(scenario())

    request_id = reply.headers["x-request-id"]
    assert request_id == wanted if wanted else len(request_id) == 32
    assert (asked["x-request-id"], asked["tracestate"]) == (request_id, "a=1")
    assert asked.get("ce-id") == headers.get("ce_id")
    assert event["id"] == f"{request_id}:0"
    assert "traceparent" not in event


def test_every_sink_gets_every_event_whatever_ails_the_others(lab, options, monkeypatch):
    monkeypatch.setattr("serving.transformer.model.FLUSH_S", 0.05)

    async def hangs(_):
        await asyncio.sleep(3600)

    async def scenario():
        servers = [lab.sink(), lab.sink(422), lab.HTTPServer(hangs)]
        async with AsyncExitStack() as stack:
            for server in servers:
                await stack.enter_async_context(server.running())
            model = await stack.enter_async_context(lab.predictor().running())
            urls = ",".join(f"http://{server.address}" for server in servers)
            path = await stack.enter_async_context(lab.serving(model.address, options(event_sinks=urls)))
            for number in range(5):
                assert (await path.predict(lab.transaction(number))).status == 200
            await lab.until("delivery", lambda: len(lab.events_of(servers[0])) == 5)
        return servers

    refused = run(scenario())[1]

    assert lab.metric("millrace_events_dropped_total", sink=refused.address) == 5


def test_a_sink_that_comes_back_gets_what_it_missed_in_order(lab, options):
    async def scenario():
        statuses = [503, 429, 200]

        async def answer(_):
            return statuses.pop(0) if len(statuses) > 1 else statuses[0], b""

        server = lab.HTTPServer(answer)
        async with lab.predictor().running() as model:
            async with server.running():
                pass  # a port that nobody listens on now
            async with lab.serving(model.address, options(event_sinks=f"http://{server.address}")) as path:
                for number in range(3):
                    await path.predict(lab.transaction(number))
                await asyncio.sleep(sinks.GATHER_S * 2)
                async with server.running(server.port):
                    await lab.until("delivery", lambda: len(path.model._events) == 0)
        return server

    server = run(scenario())

    assert len(server.asked) == 3
    assert server.asked[0].body == server.asked[1].body == server.asked[2].body
    assert lab.metric("millrace_events_dropped_total", sink=server.address) == 0


def test_memory_is_bounded_and_what_does_not_fit_is_counted(lab, options, monkeypatch):
    monkeypatch.setattr(sinks, "MAX_WAITING_ROWS", 10)
    monkeypatch.setattr("serving.transformer.model.FLUSH_S", 0.05)

    async def scenario():
        away = lab.sink()
        async with away.running():
            pass
        urls = f"http://{away.address}"
        async with (
            lab.predictor().running() as model,
            lab.serving(model.address, options(event_sinks=urls)) as path,
        ):
            for number in range(25):
                assert (await path.predict(lab.transaction(number))).status == 200
            most = len(path.model._events)
        return most, away.address

    most, name = run(scenario())

    assert most <= 20
    assert lab.metric("millrace_events_dropped_total", sink=name) == 25


def test_a_record_that_cannot_be_encoded_stops_neither_the_next_one_nor_the_count(lab, options, monkeypatch, capsys):
    results = [ValueError("odd"), None]
    real = sinks.encode

    def once_broken(*arguments):
        if (error := results.pop(0)) is not None:
            raise error
        return real(*arguments)

    monkeypatch.setattr(sinks, "encode", once_broken)

    async def scenario():
        async with (
            lab.predictor().running() as model,
            lab.sink().running() as sink,
            lab.serving(model.address, options(event_sinks=f"http://{sink.address}")) as path,
        ):
            await path.predict(lab.transaction(1))
            await lab.until("the first", lambda: len(results) == 1)
            await path.predict(lab.transaction(2))
            await lab.until("the second", lambda: sink.asked)
        return sink

    sink = run(scenario())

    assert [event["subject"] for event in lab.events_of(sink)] == ["2"]
    assert lab.metric("millrace_events_dropped_total", sink=sink.address) == 1
    assert "events_not_encoded" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://sink", "sink:80", "http://", "file:///tmp/x"])
def test_a_sink_that_is_no_http_url_stops_the_start(url):
    with pytest.raises(ConfigError, match="MILLRACE_EVENT_SINKS has"):
        Address.of(url)
