"""What is taken for an event, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import InvalidInput
from millrace.events.kinds import encode, read_label, read_scored
from millrace.pseudonyms import pseudonym
from serving.logged_rows import Bodies
from serving.posted import Posted
from serving.prediction_log.core import decode_labels, row_of
from serving.protocol import V2Answer, V2Request, encode_v2, encode_v2_request

NOW = datetime(2018, 9, 30, 12, tzinfo=UTC)
BATCH = {b"content-type": b"application/cloudevents-batch+json; charset=utf-8"}
STRUCTURED = {b"content-type": b"application/cloudevents+json"}
BODIES = Bodies("fraud", b"key")
FEATURE = b'{"inputs": [{"name": "features", "datatype": "FP32", %s}]}'
Event = Callable[..., dict[str, Any]]


def decode(headers: dict[bytes, bytes], body: bytes, bodies: Bodies = BODIES) -> list[dict[str, Any]]:
    """The events of a POST."""
    return Posted(bodies).read(headers, body, NOW)


def logged(kind: str, body: object, bodies: Bodies = BODIES, **more: str) -> dict[str, Any]:
    return sent(kind, json.dumps(body).encode(), bodies, **more)


def sent(kind: str, body: bytes, bodies: Bodies = BODIES, **more: str) -> dict[str, Any]:
    """What the stream says of one event of KServe's logger."""
    headers = {
        b"ce-specversion": b"1.0",
        b"ce-id": b"abc",
        b"ce-source": b"http://localhost:9081/",
        b"ce-type": f"org.kubeflow.serving.inference.{kind}".encode(),
        b"ce-inferenceservicename": b"fraud-detector",
        b"content-type": b"application/json",
    } | {f"ce-{name}".encode(): value.encode() for name, value in more.items()}
    (event,) = decode(headers, body, bodies)
    return read_scored(encode(event))["data"]


def test_a_batch_becomes_one_record_per_event(event: Event) -> None:
    records = decode(BATCH, json.dumps([event(1), event(2)]).encode())

    row = row_of(records[0])
    assert [record["data"]["event_id"] for record in records] == [1, 2]
    assert (row["prediction_id"], row["request_id"], row["features"]) == ("request-1:0", "request-1", [1.5, None, 0.25])
    assert row["scored_at"].isoformat() == "2018-09-30T12:00:00.123000+00:00"


def test_structured_and_binary_mode_say_the_same(event: Event) -> None:
    sent = event(1)
    attributes = {f"ce-{name}".encode(): value.encode() for name, value in sent.items() if name != "data"}

    structured = decode(STRUCTURED, json.dumps(sent).encode())
    binary = decode(attributes, json.dumps(sent["data"]).encode())

    assert structured == binary


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": 1.5}, r"event 1 .*: score is 1.5; wanted a number in \[0, 1\]"),
        ({"score": "0.5"}, "data.score: .* valid number, got '0.5'"),
        ({"transaction_id": 2**63}, "data.event_id"),
        ({"transaction_id": True}, "data.event_id"),
        ({"amount": -1}, "fields.amount is -1.*; wanted a number of at least 0"),
        ({"decision": "maybe"}, "data.decision: .* 'review' or 'approve', got 'maybe'"),
        ({"event_timestamp": "2018-09-30T12:00:00"}, "data.event_timestamp: .* timezone"),
        ({"event_timestamp": "0001-01-01T00:00:00Z"}, "event_timestamp is 0001.* wanted a year"),
        ({"features": [1, "a"]}, "data.features.1"),
        ({"features": [1.0] * 2000}, "data.features: .* at most 1024"),
        ({"terminal_id": "4\0"}, "data.keys.terminal_id"),
        ({"model_version": "3" * 300}, "data.model_version: .* at most 256"),
    ],
)
def test_a_bad_field_is_named_with_what_it_held(event: Event, changes: dict[str, Any], message: str) -> None:
    body = json.dumps([event(1), event(2, **changes)]).encode()

    with pytest.raises(InvalidInput, match=message):
        decode(BATCH, body)


def test_a_raw_customer_id_is_refused_and_not_repeated(event: Event) -> None:
    with pytest.raises(InvalidInput, match="customer_id") as failure:
        decode(STRUCTURED, json.dumps(event(1, customer_id="Jane Doe")).encode())

    assert "Jane" not in str(failure.value)


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        (BATCH, b"{", "Invalid JSON"),
        (BATCH, b'{"a": 1}', "valid array"),
        (BATCH, b"\xff\xfe", "Invalid JSON"),
        (BATCH, b'[{"type": "\\ud800"}]', "Invalid JSON"),
        (STRUCTURED, b'{"type": "com.example.else"}', "com.example.else"),
        ({}, b"[]", "wanted a CloudEvent"),
        ({b"content-type": b"application/json"}, b"[]", "wanted a CloudEvent"),
        (
            {b"ce-specversion": b"1.0", b"ce-type": b"io.millrace.prediction"},
            b"{}",
            "source: Field required; id: Field required",
        ),
        ({b"ce-specversion": b"1.0", b"ce-type": b"io.millrace.prediction"}, b"", "not JSON"),
    ],
)
def test_what_is_no_event_is_refused(headers: dict[bytes, bytes], body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode(headers, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["request", "response"]),
    body=st.dictionaries(st.sampled_from(["instances", "predictions", "inputs", "outputs", "parameters"]), JSON),
)
def test_any_body_of_the_logger_is_taken_or_refused(kind: str, body: dict[str, Any]) -> None:
    """Whatever JSON comes, the only error is the one that becomes a 400; what is taken is a record of its own kind."""
    try:
        record = logged(kind, body)
    except InvalidInput:
        return
    assert json.loads(json.dumps(record, default=str))["kind"] == kind


def test_a_v1_request_of_the_transformer_keeps_no_raw_customer_id() -> None:
    instance = {
        "transaction_id": 5,
        "event_timestamp": "2018-09-30T12:00:00Z",
        "customer_id": "77",
        "terminal_id": "1",
        "amount": 3,
    }

    record = logged("request", {"instances": [instance]}, time="2018-09-30T12:00:01Z")

    assert record["rows"] == [
        instance
        | {"customer_id": pseudonym("77", b"key"), "amount": 3.0, "event_timestamp": "2018-09-30T12:00:00+00:00"}
    ]
    assert record["at"].isoformat() == "2018-09-30T12:00:01+00:00"


def test_pseudonyms_are_let_through_only_where_they_are_accepted() -> None:
    body = {"instances": [{"customer_id": "0123456789abcdef"}, {"customer_id": "77"}]}

    strict = logged("request", body)["rows"]
    open_ = logged("request", body, Bodies("fraud", b"key", accept_pseudonyms=True))["rows"]

    assert strict[0]["customer_id"] == pseudonym("0123456789abcdef", b"key")
    assert open_ == [{"customer_id": "0123456789abcdef"}, {"customer_id": pseudonym("77", b"key")}]


def test_scores_of_the_predictor_get_the_decision_of_their_threshold() -> None:
    v1 = logged("response", {"predictions": [0.2, 0.8], "model_version": "3", "decision_threshold": 0.5})
    v2 = logged(
        "response",
        {
            "model_version": "3",
            "parameters": {"decision_threshold": 0.5},
            "outputs": [{"name": "score", "datatype": "FP32", "shape": [2], "data": [0.2, 0.8]}],
        },
    )

    assert v1["rows"] == v2["rows"]
    assert v1["rows"][1] == {"score": 0.8, "decision": "review", "model_version": "3"}


def test_figures_that_the_answer_names_otherwise_are_kept_under_their_own_names() -> None:
    bodies = Bodies("trips", b"key")
    row = {"trip_id": 7, "minutes": 12.5, "minutes_low": 9.0, "minutes_high": 18.0, "model_version": "3"}
    tensors = [{"name": name, "datatype": "FP32", "shape": [1], "data": [row[name]]} for name in row if "min" in name]

    v1 = logged("response", {"predictions": [row]}, bodies, inferenceservicename="trip-duration")
    v2 = logged("response", {"model_version": "3", "outputs": tensors}, bodies, inferenceservicename="trip-duration")

    assert v1["rows"] == [{"trip_id": 7} | v2["rows"][0]]
    assert v2["rows"] == [{"score": 12.5, "low": 9.0, "high": 18.0, "model_version": "3"}]
    assert {"minutes", "minutes_low", "minutes_high"} <= bodies.tensors


def test_tensors_flat_or_nested_become_rows() -> None:
    flat = {"name": "features", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
    nested = flat | {"data": [[1, 2], [3, 4]]}

    rows = [logged("request", {"inputs": [tensor]})["rows"] for tensor in (flat, nested)]

    assert rows[0] == rows[1] == [{"features": [1.0, 2.0]}, {"features": [3.0, 4.0]}]


def test_a_binary_exchange_says_what_the_same_one_in_json_says() -> None:
    tensors = {"features": ("FP32", np.float32([[1, 2], [3, 4]])), "history": ("FP32", np.zeros((2, 1, 4), np.float32))}
    answer = V2Answer({"score": ("FP32", np.float32([0.25, 0.75]))}, "3", {"decision_threshold": 0.5})
    body, _ = encode_v2(V2Request({}, binary=frozenset({"score"})), answer, "fraud-detector")

    request = sent("request", encode_v2_request(tensors)[0])["rows"]
    response = sent("response", body)["rows"]

    assert request == [{"features": [1.0, 2.0]}, {"features": [3.0, 4.0]}]
    assert response == [
        {"score": 0.25, "decision": "approve", "model_version": "3"},
        {"score": 0.75, "decision": "review", "model_version": "3"},
    ]


@pytest.mark.parametrize(
    "body",
    [
        FEATURE % b'"shape": [1, 1], "parameters": {"binary_data_size": 9}' + b"1",
        FEATURE % b'"shape": [1, 1], "parameters": {"binary_data_size": 4}' + b"\x00\x00\xc0\x7f",  # NaN
        FEATURE % b'"shape": [5, 0], "data": []',
    ],
)
def test_a_bad_body_of_the_logger_is_refused_whole(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        sent("request", body)


def test_labels_are_checked_and_undated_ones_are_dated_by_their_arrival() -> None:
    body = b'{"labels": [{"transaction_id": 1, "is_fraud": 1, "label_timestamp": "2018-10-07T00:00:00Z"},' \
           b'{"transaction_id": 2, "is_fraud": false}]}'  # fmt: skip

    told, undated = (read_label(encode(event)) for event in decode_labels(body, NOW, "fraud"))

    assert (told["dated"], told["event_id"], told["value"]) == (True, 1, 1.0)
    assert (undated["dated"], undated["value"], undated["label_timestamp"]) == (False, 0.0, NOW)
    with pytest.raises(InvalidInput, match=r"labels.0.is_fraud"):
        decode_labels(b'{"labels": [{"transaction_id": 1, "is_fraud": 2}]}', NOW, "fraud")
    with pytest.raises(InvalidInput, match="fraud: Extra inputs"):
        decode_labels(b'{"labels": [{"transaction_id": 1, "is_fraud": 1, "fraud": 1}]}', NOW, "fraud")
