"""One trace from the gateway to the prediction log as an OTLP collector gets it, and what happens when that is away."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvicorn
from collector import Collector, collecting, tracing_to
from envoy_plane import routed, running, wait
from kserve import InferInput, InferRequest

from millrace.errors import Unavailable
from millrace.events.log import engine
from millrace.events.stream import open_stream
from millrace.observe import otlp, tracing
from millrace.observe.progress import REQUEST, LogLines
from serving.calls import Calls
from serving.local.ports import free_port
from serving.local.traces import traces
from serving.prediction_log.writer import Writer
from serving.protocol import V2Answer
from serving.rpc import Service
from serving.server import HotModel
from serving.tensors import TensorSpec
from serving.transformer.predictor import PredictorClient

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    with tracing_to(monkeypatch) as begin:
        yield begin


@asynccontextmanager
async def listening(app: Any):
    """The application on a port, which is given."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


@contextmanager
def predictor_process(model: Any, name: str) -> Iterator[int]:
    """The real server of the predictor; ended in an orderly way, so that it sends its last spans."""
    port = free_port()
    arguments = [f"--model_dir={model}", f"--model_name={name}", f"--http_port={port}", "--host=127.0.0.1"]
    command = [sys.executable, "-m", "serving.predictor.server", *arguments, "--enable_grpc=false"]
    process = subprocess.Popen(command, env=os.environ | {"OTEL_SERVICE_NAME": "the-predictor"})
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)


async def answering(port: int, path: str) -> None:
    end = time.monotonic() + 40
    async with Calls("127.0.0.1", port) as calls:
        while time.monotonic() < end:
            try:
                if (await calls.request("GET", path)).status == 200:
                    return
            except Unavailable:
                await asyncio.sleep(0.05)
    raise AssertionError(f"nothing answers at port {port}")


@contextmanager
def prediction_log(settings: Any) -> Iterator[None]:
    """The log's writer, as its process has it; ended when the stream is read."""
    database, stream = engine(settings), open_stream(settings)
    writer = Writer(database, stream, "test")
    writer.start()
    yield
    writer.stop(20)
    stream.close()
    database.dispose()


async def ask(home: Path, collector: Collector, port: int, body: bytes, **headers: str) -> None:
    """A prediction, through a gateway of its own in front of the transformer at the port."""
    found = traces({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    with running(home, routed("fraud-detector", port), traces=found) as plane:
        path = "/v1/models/fraud-detector:predict"
        status, answer = await asyncio.to_thread(plane.ask, path, body, **headers)
        await asyncio.to_thread(wait, "the gateway's span", lambda: collector.named("gateway"))
    assert status == 200, answer


def test_one_trace_goes_from_the_gateway_to_the_prediction_log(lab, options, collector, traced, tiny_model):
    traced(collector.url)
    model = tiny_model()

    async def scenario(port: int) -> None:
        await answering(port, "/v2/health/ready")
        settings = options().model_copy(update={"history_length": 64})
        with prediction_log(settings):
            champion = PredictorClient(f"127.0.0.1:{port}", lab.NAME)
            async with lab.serving(champion, settings) as path, listening(path.app) as transformer:
                body = json.dumps({"instances": [lab.transaction(1)]}).encode()
                headers = {"traceparent": SAMPLED, "x_request_id": "the-request"}
                await ask(settings.home / "gateway", collector, transformer, body, **headers)

    with predictor_process(model, lab.NAME) as port:
        asyncio.run(scenario(port))
    tracing.stop()

    gate, there = collector.named("gateway"), collector.named("POST /v1/models/fraud-detector:predict")
    lookup, call = collector.named("store.lookup"), collector.named("POST /v2/models/fraud-detector/infer")
    answered = next(s for s in collector.spans if s.name == call.name and s.about["service.name"] == "the-predictor")
    run, received = collector.named("graph.run"), collector.named("prediction_log.write")
    call = next(s for s in collector.spans if s.name == call.name and s is not answered)
    assert gate.span.parent_span_id.hex() == CALLER
    assert gate.about["service.name"] == "millrace-gateway"
    chain = [(there, gate), (lookup, there), (call, there), (answered, call), (run, answered)]
    assert [child.span.parent_span_id for child, _ in chain] == [parent.span.span_id for _, parent in chain]
    assert {item.span.trace_id.hex() for item in (gate, there, lookup, call, answered, run)} == {TRACE}
    assert [(link.trace_id.hex(), link.span_id) for link in received.span.links] == [(TRACE, there.span.span_id)]
    assert there.attributes["http.response.status_code"].int_value == 200
    assert there.attributes["millrace.request_id"].string_value == "the-request"
    assert there.about["service.name"] == "of-the-test"
    assert there.about["service.version"] == "0.1.0"
    ends = [item.span.end_time_unix_nano for item in (lookup, call)]
    assert all(there.span.start_time_unix_nano <= end <= there.span.end_time_unix_nano for end in ends)


@pytest.mark.parametrize(
    "given", ["", "00-1-2-01", f"ff-{TRACE}-{CALLER}-01", f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{CALLER}-01-x"]
)
def test_a_traceparent_that_is_none_begins_a_new_trace(collector, traced, given):
    traced(collector.url)

    with tracing.server_span("POST /x", {b"traceparent": given.encode(), b"tracestate": b"a=b"}) as span:
        headers = span.headers({b"traceparent": given.encode(), b"tracestate": b"a=b"})
        forwarded = span.forward([(b"tracestate", b"a=b"), (b"x", b"y")])
    tracing.stop()

    sent = collector.named("POST /x").span
    assert (sent.trace_id.hex() != TRACE, sent.parent_span_id) == (True, b"")
    assert list(headers) == [b"traceparent"]
    assert headers[b"traceparent"].decode()[:-2] == f"00-{sent.trace_id.hex()}-{sent.span_id.hex()}-"
    assert forwarded == [(b"traceparent", headers[b"traceparent"]), (b"x", b"y")]


def test_what_the_caller_did_not_sample_goes_on_as_it_came_and_is_not_sent(collector, traced):
    traced(collector.url)
    given = {b"traceparent": NOT_SAMPLED.encode(), b"tracestate": b"a=b"}

    with tracing.server_span("POST /x", given) as span:
        child = tracing.span("call")
        span.record("work", 1, 2)
        span.link([SAMPLED])
        handed, forwarded = span.headers(given), span.forward(list(given.items()))
    tracing.stop()

    assert child is tracing.OFF
    assert handed == given
    assert forwarded == list(given.items())
    assert collector.spans == []


def test_a_sampler_that_asks_no_caller_traces_what_the_caller_did_not_sample(collector, traced, monkeypatch):
    traced(collector.url)
    tracing.stop()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    tracing.configure("of-the-test")

    with tracing.server_span("POST /x", {b"traceparent": NOT_SAMPLED.encode()}):
        pass
    tracing.stop()

    assert collector.named("POST /x").span.parent_span_id.hex() == CALLER


def test_a_request_that_is_not_sampled_says_so_to_the_next_server(collector, traced, monkeypatch):
    traced(collector.url)
    tracing.stop()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    tracing.configure("of-the-test")

    with tracing.server_span("POST /x", {}) as span:
        handed = span.headers({b"tracestate": b"a=b", b"x": b"y"})
        forwarded = span.forward([(b"tracestate", b"a=b"), (b"x", b"y")])
        child = tracing.span("call")
    with tracing.server_span("POST /y", handed) as behind:
        passed = behind.headers(handed)
    tracing.stop()

    assert child is tracing.OFF
    assert list(handed) == [b"x", b"traceparent"]
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-00", handed[b"traceparent"])
    assert forwarded == [(b"traceparent", handed[b"traceparent"]), (b"x", b"y")]
    assert passed == handed
    assert collector.spans == []


def test_rare_work_is_always_traced_and_goes_on_with_the_trace_that_it_is_given(collector, traced, monkeypatch):
    traced(collector.url)
    tracing.stop()
    monkeypatch.delenv("OTEL_TRACES_SAMPLER")
    tracing.configure("of-the-test")

    for _ in range(20):
        with tracing.work_span("alarm") as alarm, tracing.span("step"):
            message = alarm.traceparent
    with tracing.work_span("retraining", message):
        pass
    with tracing.work_span("nobody", NOT_SAMPLED) as untraced:
        assert untraced.traceparent.endswith("-00")
    tracing.stop()

    names = [item.name for item in collector.spans]
    assert (names.count("alarm"), names.count("step"), names.count("nobody")) == (20, 20, 0)
    retraining = collector.named("retraining").span
    assert message == f"00-{retraining.trace_id.hex()}-{retraining.parent_span_id.hex()}-01"


def test_a_tenth_of_the_requests_is_traced_and_what_a_caller_sampled(collector, traced, monkeypatch):
    traced(collector.url)
    tracing.stop()
    monkeypatch.delenv("OTEL_TRACES_SAMPLER")
    tracing.configure("of-the-test")

    for number in range(400):
        with tracing.server_span("POST /own", {}):
            pass
        if number < 20:
            with tracing.server_span("POST /asked", {b"traceparent": SAMPLED.encode()}):
                pass
    tracing.stop()

    names = [item.name for item in collector.spans]
    assert names.count("POST /asked") == 20
    assert 5 <= names.count("POST /own") <= 100


def test_an_answer_with_500_and_a_call_that_raises_are_errors(collector, traced):
    traced(collector.url)

    with tracing.server_span("POST /x", {}) as span:
        with pytest.raises(TimeoutError), tracing.span("call"):
            raise TimeoutError
        span.answered(503)
    tracing.stop()

    call, answered = collector.named("call"), collector.named("POST /x")
    assert [item.span.status.code for item in (call, answered)] == [2, 2]
    assert call.attributes["error.type"].string_value == "TimeoutError"


def test_lines_of_a_request_carry_its_ids_in_json(lab, options, traced, collector, monkeypatch, capsys):
    monkeypatch.setenv("MILLRACE_LOG_FORMAT", "json")
    store = lab.MemoryStore(fails=RuntimeError("the store is away"))

    async def scenario(**headers: str) -> Any:
        async with lab.predictor().running() as model, lab.serving(model.address, options(), store) as path:
            return await path.predict(lab.transaction(1), **headers)

    asyncio.run(scenario(traceparent=SAMPLED))
    traced(collector.url)
    asyncio.run(scenario(x_request_id="mine", traceparent="nonsense"))
    tracing.stop()

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    first, second = (line for line in lines if line["event"] == "lookup_failed")
    sent = collector.named("POST /v1/models/fraud-detector:predict").span
    assert (first["trace_id"], len(first["request_id"])) == (TRACE, 32)
    assert (second["trace_id"], second["request_id"]) == (sent.trace_id.hex(), "mine")
    assert "request_id" not in next(line for line in lines if line["event"] == "tracing_on")


def test_what_libraries_log_in_a_request_is_json_with_its_ids(monkeypatch):
    monkeypatch.setenv("MILLRACE_LOG_FORMAT", "json")
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(LogLines())
    logger = logging.Logger("kserve")
    logger.addHandler(handler)
    token = REQUEST.set({b"ce-id": b"mine", b"traceparent": SAMPLED.encode()})

    try:
        raise ValueError("with a cause")
    except ValueError:
        logger.exception("it failed for %s", "a reason")
    finally:
        REQUEST.reset(token)

    line = json.loads(handler.stream.getvalue())
    assert line.pop("time")
    assert "ValueError: with a cause" in line.pop("traceback")
    ids = {"request_id": "mine", "trace_id": TRACE}
    assert line == {"event": "error", "logger": "kserve", "message": "it failed for a reason"} | ids


def test_grpc_takes_the_trace_of_its_metadata(collector, traced):
    class Answering(HotModel):
        inputs = outputs = (TensorSpec("x", "FP32", (-1,)),)

        async def answer_v2(self, request, headers):
            given.append(headers[b"traceparent"].decode())
            return V2Answer({"x": ("FP32", request.tensors["x"])}, "1", {})

    given: list[str] = []
    tensor = InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.float32([1]), binary_data=True)
    metadata = SimpleNamespace(invocation_metadata=lambda: (("traceparent", SAMPLED),))
    traced(collector.url)

    asyncio.run(Service(Answering("m"), None, None).ModelInfer(InferRequest("m", [tensor]).to_grpc(), metadata))
    tracing.stop()

    sent = collector.named("ModelInfer")
    assert sent.span.parent_span_id.hex() == CALLER
    assert given[0].split("-")[1:3] == [TRACE, sent.span.span_id.hex()]
    assert sent.attributes["rpc.system"].string_value == "grpc"


def test_a_collector_that_is_away_costs_no_answer_and_one_line(lab, options, traced, capsys):
    traced(f"http://127.0.0.1:{free_port()}")
    lost = lab.metric("millrace_spans_lost_total")

    async def scenario() -> list[int]:
        async with lab.predictor().running() as model, lab.serving(model.address, options()) as path:
            said = []
            for number in range(2):
                said += [(await path.predict(lab.transaction(number))).status for _ in range(5)]
                before = lab.metric("millrace_spans_lost_total")
                await lab.until("a batch is given up", lambda b=before: lab.metric("millrace_spans_lost_total") > b)
            return said

    assert asyncio.run(scenario()) == [200] * 10

    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "trace_collector_away" in line]) == 1
    assert not any("Traceback" in line or "Transient" in line for line in lines)
    assert lab.metric("millrace_spans_lost_total") >= lost + 10


def test_threads_switch_as_they_did_once_spans_are_encoded(collector, traced):
    usual = sys.getswitchinterval()
    traced(collector.url)
    configured = sys.getswitchinterval()

    with tracing.server_span("POST /x", {b"traceparent": SAMPLED.encode()}):
        pass
    tracing.stop()

    assert (configured, sys.getswitchinterval()) == (usual, usual)
    assert len(collector.spans) == 1


def test_a_collector_that_hangs_does_not_hold_up_the_end(collector, traced, monkeypatch):
    monkeypatch.setattr(otlp, "FLUSH_S", 0.3)
    traced(collector.url)
    collector.go.clear()
    with tracing.server_span("POST /x", {}):
        pass

    tracing.stop()  # the collector would have kept it for good

    assert not collector.spans


def test_without_a_collector_nothing_is_imported_said_or_changed():
    program = (
        "import sys; from millrace.observe import tracing; tracing.configure('x'); h = {b'traceparent': b'as-given'}\n"
        "with tracing.server_span('POST /x', h) as span:\n"
        "    assert span is tracing.OFF and tracing.span('y') is span and span.headers(h) is h\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}

    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)

    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
