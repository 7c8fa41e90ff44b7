"""Events become rows once, survive a restart, and meet their model version's reference; bad ones change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from benchmarks.drift import inflated
from fraud.features import FEATURE_NAMES
from millrace.errors import InvalidInput
from serving.cloudevents import BATCH
from serving.drift_detector.backends import Streaming
from serving.drift_detector.events import Events, Scored
from serving.drift_detector.references import ModelStore
from serving.drift_detector.service import DriftService, QueueFull
from serving.drift_detector.settings import DriftSettings
from serving.logged_rows import Payloads
from serving.protocol import V2Answer, V2Request, encode_v2, encode_v2_request
from serving.tensors import TooLarge

LOGGED = {
    "ce-specversion": "1.0",
    "ce-source": "http://localhost:9081/",
    "ce-time": "2018-09-30T12:00:00Z",
    "content-type": "application/json",
}


def detector_events() -> Events:
    return Events("fraud-detector", Payloads("fraud", b"key"))


def read(events: Events, body: Any, headers: dict[str, str] | None = None) -> list[Scored]:
    """The rows of a POST; a body that is no bytes is sent as JSON."""
    sent = {name.encode(): value.encode() for name, value in (headers or {"content-type": BATCH}).items()}
    return events.read(sent, body if isinstance(body, bytes) else orjson.dumps(body))[0]


@pytest.fixture
def service(tmp_path: Path, model_store: Callable[..., Path]) -> Iterator[Callable[..., DriftService]]:
    """`service(**settings)`: a restored one over the same state folder, as a new process has it."""
    store = model_store("1", "2")
    started = []

    def start(**settings: Any) -> DriftService:
        chosen = DriftSettings(period_s=0, **settings)
        made = DriftService(chosen, tmp_path / "state", ModelStore(store, "fraud-detector", "fraud"), Streaming())
        started.append(made)
        made.restore()
        return made

    yield start
    for made in started:
        made._thread.shutdown()
        made._store.close()


@pytest.fixture
def rows(stream, prediction) -> Callable[..., list[Scored]]:
    def build(first: int, count: int, factor: float = 1.0, **data: Any) -> list[Scored]:
        start = stream.first + first
        values = inflated(stream.features[start : start + count], factor)
        batch = [prediction(start + i, vector=values[i], **data) for i in range(count)]
        return read(detector_events(), batch)

    return build


async def judged(service: DriftService) -> None:
    while service.waiting:
        await service._step()


def test_an_event_counts_once_however_often_it_comes(service, rows):
    watching = service()

    first = watching.accept(rows(0, 300))
    again = watching.accept(rows(200, 200))

    assert (first["accepted"], again["accepted"], again["duplicate"]) == (300, 100, 100)
    watching.close()
    assert service().accept(rows(0, 400))["duplicate"] == 400


def test_a_killed_process_loses_nothing_that_it_accepted(service, rows):
    watching = service(save_every_rows=1_000)
    watching.accept(rows(0, 1_200))
    asyncio.run(judged(watching))
    watching.accept(rows(1_200, 700))  # accepted, not judged, then killed: no close

    after = service()
    asyncio.run(judged(after))

    assert after._watches["1"].seen == 1_900
    assert after.accept(rows(0, 1_900))["accepted"] == 0


def test_an_alarm_has_one_id_before_and_after_a_restart(service, rows):
    watching = service()
    watching.accept(rows(0, 1_000))
    watching.accept(rows(1_000, 2_000, 1.2))
    asyncio.run(judged(watching))
    before = list(watching.alarms)

    after = service()
    asyncio.run(judged(after))

    assert [alarm["kind"] for alarm in before].count("features") == 1
    assert list(after.alarms) == before
    assert "customer_amount_ratio" in before[0]["features"]


def test_every_model_version_is_compared_with_its_own_reference(service, rows):
    watching = service()

    watching.accept(rows(0, 1_000))
    watching.accept(rows(1_000, 1_000, model_version="2"))
    asyncio.run(judged(watching))

    assert {item["model_version"] for item in watching.history} == {"1", "2"}
    assert watching.current_version() == "2"


def test_the_online_companion_follows_every_request_where_it_is_on(service, rows):
    watching = service(online=True)

    watching.accept(rows(0, 600))
    asyncio.run(judged(watching))

    assert watching._watches["1"].seen == 600
    assert watching._online.keys() == {"1"}


def test_degraded_answers_and_shadows_are_not_the_worlds_features(service, rows):
    watching = service()

    counts = watching.accept([*rows(0, 50, arm="shadow"), *rows(50, 50, degraded=True)])
    asyncio.run(judged(watching))

    assert counts["ignored"] == 50
    assert watching._watches["1"].seen == 0


def test_a_version_that_is_not_in_the_store_is_refused_and_nothing_of_its_batch_is_kept(service, rows):
    watching = service()

    with pytest.raises(InvalidInput, match="model version '9'"):
        watching.accept([*rows(0, 10), *rows(10, 1, model_version="9")])

    assert watching.waiting == 0
    assert watching.accept(rows(0, 10))["accepted"] == 10


def test_more_than_can_be_judged_is_refused_whole(service, rows):
    watching = service(queue_rows=1_000)
    watching.accept(rows(0, 900))

    with pytest.raises(QueueFull):
        watching.accept(rows(900, 200))

    assert watching.waiting == 900


def test_a_state_that_cannot_be_read_is_put_aside_and_said(service, rows, tmp_path, capsys):
    service().close()
    (tmp_path / "state" / "state.npz").write_bytes(b"not a state")

    watching = service()

    assert watching.accept(rows(0, 10))["accepted"] == 10
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
    rows, others = detector_events().read(
        {b"content-type": BATCH.encode()}, orjson.dumps([prediction(1), prediction(2, model_name="another")])
    )

    counts = service().accept(rows, others)

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


def test_unknown_values_survive_the_journal(rows, stream):
    row = rows(0, 1)[0]
    gap = Scored.of_line(
        Scored(*[*row_fields(row)][:4], (float("nan"), *row.features[1:]), *[*row_fields(row)][5:]).line()
    )

    assert gap.features[0] != gap.features[0]
    assert gap.features[1:] == row.features[1:]


def row_fields(row: Scored) -> list[Any]:
    return [getattr(row, name) for name in Scored.__slots__]
