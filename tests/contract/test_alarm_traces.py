"""One trace goes from a drift alarm through the trigger to the retraining's start; a receive links to its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import orjson
import pytest
from collector import Collector, collecting, tracing_to
from logged import prediction_event
from starlette.applications import Starlette
from starlette.routing import Route

from fraud.features import FEATURE_NAMES
from millrace.events.appender import Appender
from millrace.events.stream import Stream, open_stream
from millrace.observe import tracing
from millrace.settings import Settings
from serving.cloudevents import BATCH
from serving.drift_detector.alarms import announce
from serving.drift_detector.consumer import group_of
from serving.drift_detector.model import DriftModel
from serving.logged_rows import Bodies
from serving.posted import Posted
from serving.retraining_trigger.launcher import Status
from serving.retraining_trigger.listener import GROUP, Listener
from serving.retraining_trigger.service import Trigger, Triggers

TRACE, REQUEST = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ALARM = {
    "id": "a1", "kind": "features", "model_version": "1", "raised_at": "2018-09-01T00:00:00+00:00", "reason": "amount",
}  # fmt: skip


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as made, tracing_to(monkeypatch) as begin:
        begin(made.url)
        yield made


class Launcher:
    """Starts nothing."""

    def __init__(self) -> None:
        self.began: list[str] = []

    def start(self, identity: str, reason: str) -> None:
        self.began.append(identity)

    def status(self, identity: str) -> Status:
        return Status("running")

    def stop(self, identity: str) -> None:
        pass


def alarmed(stream: Stream, triggers: Triggers) -> None:
    """The alarm goes over the stream, as the detector and the trigger do it."""
    announce(stream, ALARM, "/millrace/drift-detector")
    listener = Listener(stream, triggers)
    listener.start()
    deadline = time.monotonic() + 20
    while triggers.of("fraud").state.waiting is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    listener.stop()


def test_an_alarm_a_request_to_the_trigger_and_the_start_of_the_retraining_are_one_trace(
    tmp_path, monkeypatch, collector
):
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    monkeypatch.setenv("MILLRACE_RETRAINING_DEBOUNCE_S", "0")
    launcher = Launcher()
    triggers = Triggers(Settings(), lambda _: launcher)

    stream = open_stream(Settings())
    alarmed(stream, triggers)
    lag = stream.lag(GROUP)
    stream.close()
    Trigger(Settings(), launcher).tick()  # another process, after a kill: what it reads is on disk
    tracing.stop()

    names = ("drift.alarm", "retraining.alarm", "retraining.start")
    alarm, taken, start = (collector.named(name) for name in names)
    assert (lag.events, lag.refused) == (0, 0)
    assert launcher.began == ["a1"]
    assert taken.span.parent_span_id == start.span.parent_span_id == alarm.span.span_id
    assert {item.span.trace_id for item in (alarm, taken, start)} == {alarm.span.trace_id}
    assert alarm.attributes["millrace.alarm.kind"].string_value == "features"


def test_the_detectors_receive_links_to_the_requests_of_its_events(tmp_path, collector):
    event = prediction_event(1, features=[0.0] * len(FEATURE_NAMES))
    traces = [f"00-{TRACE}-{REQUEST}-01", None, "", f"00-{TRACE}-{REQUEST}-00", "nonsense"]
    sent = [event | {"id": str(n), "traceparent": trace} for n, trace in enumerate(traces)]
    stream = open_stream(Settings(home=tmp_path))
    appender, posted = Appender(stream), Posted(Bodies("fraud", b"key"))
    model = DriftModel("drift-detector", SimpleNamespace(), posted, appender, lambda: 0, len(FEATURE_NAMES))

    async def scenario() -> list[int]:
        app = Starlette(routes=[Route("/", model.events, methods=["POST"])])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://detector") as client:
            good = await client.post("/", content=orjson.dumps(sent), headers={"content-type": BATCH})
            return [good.status_code, (await client.post("/", content=b"{}")).status_code]

    assert asyncio.run(scenario()) == [202, 400]
    tracing.stop()

    received, refused = (item for item in collector.spans if item.name == "POST /")
    entries = stream.read(group_of("fraud-detector"), "test", 10, 0.0)
    appender.close()
    stream.close()
    assert [entry.id for entry in entries] == ["0", "1", "2", "3", "4"]
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in received.span.links] == [(TRACE, REQUEST)]
    assert refused.attributes["http.response.status_code"].int_value == 400
