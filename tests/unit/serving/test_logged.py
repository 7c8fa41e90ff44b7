"""What KServe's logger forwards of a binary V2 exchange says what the same exchange in JSON says, or is refused."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import InvalidInput
from serving.logged import decode_logged
from serving.protocol import V2Answer, V2Request, encode_v2, encode_v2_request

FEATURES = np.float32([[1.5, -2.0], [0.25, 3.0]])


def request() -> bytes:
    """As the transformer sends it to the predictor."""
    tensors = {"features": ("FP32", FEATURES), "history": ("FP32", np.zeros((2, 3, 4), np.float32))}
    return encode_v2_request(tensors, "the é")[0]


def said(head: dict[str, object], *parts: bytes) -> bytes:
    return json.dumps(head).encode() + b"".join(parts)


def tensor(size: object = 8, **changes: object) -> dict[str, object]:
    return {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}} | changes


def test_a_binary_request_is_read_without_being_told_where_its_json_ends():
    document = decode_logged(request(), {"features"})

    (features,) = document["inputs"]
    assert document["id"] == "the é"
    assert (features["name"], features["shape"], features["data"]) == ("features", [2, 2], [1.5, -2.0, 0.25, 3.0])


def test_a_binary_response_is_read_with_what_is_json_beside_it():
    answer = V2Answer(
        {"score": ("FP32", np.float32([0.25, 0.75])), "decision": ("BYTES", np.array(["approve", "revieẅ"], object)),
         "transaction_id": ("INT64", np.int64([7, 8]))},
        "3", {"decision_threshold": 0.5},
    )  # fmt: skip
    body, length = encode_v2(V2Request({}, binary=frozenset({"score", "decision"})), answer, "fraud-detector")

    document = decode_logged(body, ("score", "decision", "transaction_id"), str(length))

    data = {item["name"]: item["data"] for item in document["outputs"]}
    assert data == {"score": [0.25, 0.75], "decision": ["approve", "revieẅ"], "transaction_id": [7, 8]}
    assert (document["model_version"], document["parameters"]) == ("3", {"decision_threshold": 0.5})


def test_a_json_body_is_left_as_it_is():
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}], "id": "1"}

    assert decode_logged(orjson.dumps(body), ()) == body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"\x00\x01", "not JSON"),
        (b"{", "neither JSON nor"),
        (b'{"a":' * 100_000, "neither JSON nor"),
        (b'{"inputs": "x"}\x00', "no list of objects"),
        (b'{"inputs": [1]}\x00', "no list of objects"),
        (b'{"id": "\xff"}\x00', "not JSON"),
        (b'{"id": NaN}\x00', "not JSON"),
        (said({"inputs": [tensor()]}, b"1234"), "binary_data_size is 8; 4 bytes"),
        (said({"inputs": [tensor()]}, b"123456789"), "1 bytes follow"),
        (said({"inputs": [tensor(-1)]}, b"\x00"), "binary_data_size is -1"),
        (said({"inputs": [tensor(True)]}, b"\x00"), "binary_data_size is True"),
        (said({"inputs": [tensor(shape=[3])]}, bytes(8)), "came with 8 bytes"),
        (said({"inputs": [tensor(shape=None)]}, bytes(8)), "shape None"),
        (said({"inputs": [tensor(shape=[])]}, bytes(8)), "shape \\[\\]"),
        (said({"inputs": [tensor(shape=[-2])]}, bytes(8)), "shape \\[-2\\]"),
        (said({"inputs": [tensor(datatype="FP16")]}, bytes(8)), "'FP16'"),
        (said({"inputs": [tensor(datatype=["FP32"])]}, bytes(8)), "'FP32'"),
        (said({"inputs": [tensor()]}, np.float32([1, np.nan]).tobytes()), "finite"),
        (said({"inputs": [tensor(datatype="BYTES")]}, b"\xff\xff\xff\xff1234"), "ends inside a string"),
    ],
)
def test_what_is_wrong_is_named(body, message):
    with pytest.raises(InvalidInput, match=message):
        decode_logged(body, {"x"})


@pytest.mark.parametrize("length", ["", "-1", "1e3", "999999", "3", "½"])
def test_a_length_that_is_none_or_wrong_is_refused(length):
    with pytest.raises(InvalidInput):
        decode_logged(request(), {"features"}, length)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 400), at=st.integers(0, 399), byte=st.integers(0, 255))
def test_a_damaged_body_is_read_or_refused(cut, at, byte):
    """Whatever happened to a body, it is an object or an InvalidInput that says why, which becomes a 400."""
    body = bytearray(request())
    body[at % len(body)] = byte

    try:
        found = decode_logged(bytes(body[: cut or None]), {"features"})
    except InvalidInput as refused:
        found = {"refused": str(refused)}

    assert isinstance(found, dict)
    assert found.get("refused") != ""
