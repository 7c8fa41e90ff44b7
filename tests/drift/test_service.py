"""Events become rows once, survive a restart, and meet their model version's reference; bad ones change nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from benchmarks.drift import inflated
from fraud.features import FEATURE_NAMES
from millrace.errors import InvalidInput
from millrace.events.kinds import encode
from millrace.events.stream import ALARMS, PREDICTIONS, Group, Stream, open_stream
from millrace.settings import Settings
from serving.cloudevents import BATCH
from serving.drift_detector.backends import Streaming
from serving.drift_detector.consumer import Consumer, group_of
from serving.drift_detector.events import Events, Scored
from serving.drift_detector.references import ModelStore
from serving.drift_detector.service import DriftService
from serving.drift_detector.settings import DriftSettings
from serving.logged_rows import Bodies
from serving.posted import Posted
from serving.protocol import V2Answer, V2Request, encode_v2, encode_v2_request
from serving.tensors import TooLarge

NOON = datetime(2018, 9, 30, 12, tzinfo=UTC)
GROUP = group_of("fraud-detector")
LOGGED = {
    "ce-specversion": "1.0",
    "ce-source": "http://localhost:9081/",
    "ce-time": "2018-09-30T12:00:00Z",
    "content-type": "application/json",
}


def detector_events() -> Events:
    return Events("fraud-detector", "fraud")


def read(events: Events, body: Any, headers: dict[str, str] | None = None) -> list[Scored]:
    """The rows of a POST to the detector, by way of the stream; a body that is no bytes is sent as JSON."""
    sent = {name.encode(): value.encode() for name, value in (headers or {"content-type": BATCH}).items()}
    posted = Posted(Bodies("fraud", b"key"), "fraud-detector")
    taken = posted.read(sent, body if isinstance(body, bytes) else orjson.dumps(body), NOON)
    return [row for event in taken for row in events.read(encode(event)) or ()]


@pytest.fixture
def service(tmp_path: Path, model_store: Callable[..., Path]) -> Callable[..., DriftService]:
    """`service(**settings)`: a restored one over the same state folder, as a new process has it."""
    store = model_store("1", "2")

    def start(**settings: Any) -> DriftService:
        chosen = DriftSettings(period_s=0, **settings)
        made = DriftService(chosen, tmp_path / "state", ModelStore(store, "fraud-detector", "fraud"), Streaming())
        made.restore()
        return made

    return start


@pytest.fixture
def stream_of_events(tmp_path: Path) -> Iterator[Stream]:
    opened = open_stream(Settings(home=tmp_path))
    yield opened
    opened.close()


@contextmanager
def consuming(stream: Stream, service: DriftService) -> Iterator[Consumer]:
    """The detector's thread; on leaving it ends as the process does."""
    consumer = Consumer(stream, GROUP, detector_events(), service, "/millrace/drift-detector")
    consumer.start()
    try:
        yield consumer
    finally:
        consumer.stop()


def append(stream: Stream, events: list[dict[str, Any]]) -> None:
    stream.append(PREDICTIONS, [encode(event) for event in events], [event["id"] for event in events])


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def scored(stream, prediction) -> Callable[..., list[dict[str, Any]]]:
    """`scored(first, count, factor)` → prediction events, their features inflated by the factor."""

    def build(first: int, count: int, factor: float = 1.0, **data: Any) -> list[dict[str, Any]]:
        start = stream.first + first
        values = inflated(stream.features[start : start + count], factor)
        return [prediction(start + i, vector=values[i], **data) for i in range(count)]

    return build


@pytest.fixture
def rows(scored) -> Callable[..., list[Scored]]:
    def build(*span: Any, **data: Any) -> list[Scored]:
        return read(detector_events(), scored(*span, **data))

    return build


def test_an_event_counts_once_however_often_it_comes(service, rows):
    watching = service()

    first = watching.take(rows(0, 300))
    again = watching.take(rows(200, 200))
    watching.save()

    assert (first["accepted"], again["accepted"], again["duplicate"]) == (300, 100, 100)
    assert service().take(rows(0, 400))["duplicate"] == 400


def test_a_killed_process_finds_in_the_stream_what_its_state_does_not_hold(service, scored, stream_of_events, tmp_path):
    append(stream_of_events, scored(0, 1_200))
    watching = service(save_every_rows=1_000)
    killed = Consumer(stream_of_events, GROUP, detector_events(), watching, "/millrace/drift-detector")
    killed._step()  # 1,000 events, saved and acknowledged
    killed._step()  # 200 events, judged; then killed

    after, stream = service(), open_stream(Settings(home=tmp_path))
    with consuming(stream, after):
        append(stream_of_events, scored(1_200, 700))
        until(lambda: after._watches["1"].seen == 1_900)
    stream.close()

    assert stream_of_events.lag(GROUP).events == 0
    assert after.take([row for event in scored(0, 1_900) for row in detector_events().read(encode(event))]) == {
        "accepted": 0,
        "duplicate": 1_900,
        "ignored": 0,
    }


def test_an_alarm_is_on_the_stream_once_told_before_its_state_is_saved(service, rows, scored, stream_of_events):
    append(stream_of_events, [*scored(0, 1_000), *scored(1_000, 2_000, 1.2)])
    watching = service()
    with consuming(stream_of_events, watching):
        until(lambda: stream_of_events.lag(GROUP).events == 0)

    told = stream_of_events.read(Group(ALARMS, "test"), "test", 100, 0.0)
    alarms = [orjson.loads(entry.body)["data"] for entry in told]
    assert alarms == watching.alarms == service().alarms
    assert [alarm["kind"] for alarm in alarms].count("features") == 1
    assert "customer_amount_ratio" in alarms[0]["features"]


def test_a_refused_event_is_set_aside_alone(service, scored, stream_of_events):
    events = scored(0, 20)
    events[3]["data"]["features"] = [1.0]
    events[7]["data"]["model_version"] = "9"
    events[9]["data"]["score"] = 7
    append(stream_of_events, events)
    watching = service()

    with consuming(stream_of_events, watching):
        until(lambda: stream_of_events.lag(GROUP).refused == 3)

    reasons = [refused.reason for refused in stream_of_events.refused()]
    assert watching._watches["1"].seen == 17
    assert "features are 1 values" in reasons[0]
    assert "model version '9'" in reasons[1]
    assert "score is 7" in reasons[2]


def test_a_state_that_cannot_be_written_acknowledges_nothing(service, scored, stream_of_events, monkeypatch):
    watching = service()
    append(stream_of_events, scored(0, 50))
    with monkeypatch.context() as patched:
        patched.setattr(watching._store, "save", full_disk)
        with consuming(stream_of_events, watching):
            until(lambda: "1" in watching._watches and watching._watches["1"].seen == 50)

    assert stream_of_events.lag(GROUP).events == 50


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_every_model_version_is_compared_with_its_own_reference(service, rows):
    watching = service()

    watching.take(rows(0, 1_000))
    watching.take(rows(1_000, 1_000, model_version="2"))

    assert {item["model_version"] for item in watching.history} == {"1", "2"}
    assert watching.current_version() == "2"


def test_the_online_companion_follows_every_request_where_it_is_on(service, rows):
    watching = service(online=True)

    watching.take(rows(0, 600))

    assert watching._watches["1"].seen == 600
    assert watching._online.keys() == {"1"}


def test_degraded_answers_and_shadows_are_not_the_worlds_features(service, rows):
    watching = service()

    counts = watching.take([*rows(0, 50, arm="shadow"), *rows(50, 50, degraded=True)])

    assert counts["ignored"] == 50
    assert watching._watches["1"].seen == 0


def test_a_state_that_cannot_be_read_is_put_aside_and_said(service, rows, tmp_path, capsys):
    service().save()
    (tmp_path / "state" / "state.npz").write_bytes(b"not a state")

    watching = service()

    assert watching.take(rows(0, 10))["accepted"] == 10
    assert "drift_state_unreadable" in capsys.readouterr().err


BAD_DATA = [
    {"model_version": 3},
    {"score": 1.5},
    {"score": None},
    {"features": [1.0]},
    {"features": ["a"] * len(FEATURE_NAMES)},
    {"features": [1e39] * len(FEATURE_NAMES)},
    {"decision": "maybe"},
    {"event_timestamp": "yesterday"},
    {"event_timestamp": "2018-09-30T12:00:00"},
]


@pytest.mark.parametrize("data", BAD_DATA, ids=str)
def test_an_event_that_is_not_as_the_contract_says_is_refused(prediction, data):
    with pytest.raises(InvalidInput):
        read(detector_events(), [prediction(1, **data)])


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{}", {}),
        (b"{}", {"content-type": "application/json"}),
        (b"{}", {"content-type": BATCH}),
        (b'[{"specversion": "1.0", "score": NaN}]', {"content-type": BATCH}),
        (b"[1]", {"content-type": BATCH}),
        (b"{}", {"content-type": "application/cloudevents+json"}),
        (b"{}", LOGGED | {"ce-type": "another", "ce-id": "1"}),
        (b"[]", LOGGED | {"ce-type": "org.kubeflow.serving.inference.request", "ce-id": "1"}),
        (b"{}", LOGGED | {"ce-type": "org.kubeflow.serving.inference.request"}),
    ],
)
def test_what_is_not_an_event_is_refused(body, headers):
    with pytest.raises(InvalidInput):
        read(detector_events(), body, headers)


def test_events_of_another_model_are_left_out_and_counted(service, prediction):
    events = [detector_events().read(encode(event)) for event in (prediction(1), prediction(2, model_name="another"))]

    counts = service().take(events[0], others=events.count(None))

    assert counts == {"accepted": 1, "duplicate": 0, "ignored": 1}


def test_a_million_events_are_refused_before_they_are_looked_at():
    with pytest.raises(TooLarge):
        read(detector_events(), [0] * 1_000_000)


def test_a_logged_request_and_its_response_make_rows(stream):
    events = detector_events()
    features = stream.features[:2]
    width = len(FEATURE_NAMES)
    request = {
        "inputs": [{"name": "features", "shape": [2, width], "datatype": "FP32", "data": features.ravel().tolist()}]
    }
    response = {
        "model_version": "1",
        "parameters": {"decision_threshold": 0.5},
        "outputs": [{"name": "score", "datatype": "FP32", "shape": [2], "data": [0.2, 0.9]}],
    }
    kind = "org.kubeflow.serving.inference."

    first = read(events, request, LOGGED | {"ce-type": kind + "request", "ce-id": "a"})
    second = read(events, response, LOGGED | {"ce-type": kind + "response", "ce-id": "a"})

    assert first == []
    assert [(row.id, row.score, row.review) for row in second] == [("a:0", 0.2, False), ("a:1", 0.9, True)]
    assert second[0].features == pytest.approx(features[0].tolist())


def test_a_binary_exchange_is_read_and_a_damaged_one_changes_nothing(stream):
    events = detector_events()
    features = stream.features[:2]
    request, _ = encode_v2_request({"features": ("FP32", features), "history": ("FP32", np.zeros((2, 3, 4), "f4"))})
    answer = V2Answer({"score": ("FP32", np.float32([0.25, 0.75]))}, "1", {"decision_threshold": 0.5})
    response, length = encode_v2(V2Request({}, binary=frozenset({"score"})), answer, "fraud-detector")
    about = {name: LOGGED | {"ce-type": f"org.kubeflow.serving.inference.{name}", "ce-id": "a"}
             for name in ("request", "response")}  # fmt: skip

    read(events, request, about["request"])
    for damaged, which in ((request[:-1], "request"), (request + b"1", "request"), (response[:-1], "response")):
        with pytest.raises(InvalidInput):
            read(events, damaged, about[which])
    rows = read(events, response, about["response"] | {"inference-header-content-length": str(length)})

    assert [(row.id, row.score, row.review) for row in rows] == [("a:0", 0.25, False), ("a:1", 0.75, True)]
    assert rows[1].features == pytest.approx(features[1].tolist())


def test_a_logged_v1_exchange_makes_rows_and_a_response_alone_makes_none(stream):
    events = detector_events()
    request = {"instances": [{"features": stream.features[0].tolist(), "history": [[0, 0, 0, 0]]}]}
    response = {"predictions": [0.7], "model_version": "1", "decision_threshold": 0.5, "history_length": 64}
    kind = "org.kubeflow.serving.inference."

    alone = read(events, response, LOGGED | {"ce-type": kind + "response", "ce-id": "b"})
    read(events, request, LOGGED | {"ce-type": kind + "request", "ce-id": "b"})
    rows = read(events, response, LOGGED | {"ce-type": kind + "response", "ce-id": "b"})

    assert alone == []
    assert [(row.model_version, row.review) for row in rows] == [("1", True)]
