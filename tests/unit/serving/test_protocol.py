"""Bodies of V1 and V2: what is accepted, what is refused and how the refusal reads."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import InvalidInput
from serving.protocol import V2Answer, V2Request, decode_json, decode_v1, decode_v2, encode_v2, encode_v2_request
from serving.tensors import MAX_ROWS, TensorSpec, TooLarge

X = TensorSpec("x", "FP32", (-1, 2))
NAME = TensorSpec("name", "BYTES", (-1,))
COUNT = TensorSpec("count", "INT64", (-1,))


def body(*inputs: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": list(inputs)} | rest).encode()


def x(data: Any = (1.0, 2.0), **changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": data} | changes


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"instances": [NaN]}', "not JSON"),
        (b"[1]", "a JSON list; wanted an object"),
        (b"null", "a JSON null"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(document, message):
    with pytest.raises(InvalidInput, match=message):
        decode_json(document)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "'instances' is missing"),
        ({"instances": {}}, "'instances' is a object; wanted a list"),
        ({"instances": []}, "no rows; wanted at least 1"),
        ({"instances": [1], "inputs": []}, "unknown key 'inputs'"),
    ],
)
def test_a_v1_document_has_instances_and_nothing_else(document, message):
    with pytest.raises(InvalidInput, match=message):
        decode_v1(document)


def test_more_rows_than_the_server_takes_are_too_large():
    with pytest.raises(TooLarge, match=f"wanted at most {MAX_ROWS}"):
        decode_v1({"instances": [0] * (MAX_ROWS + 1)})


def test_flat_and_nested_data_are_the_same_tensor():
    flat = decode_v2(body(x([1, 2])), None, [X], [])
    nested = decode_v2(body(x([[1.0, 2.0]])), None, [X], [])

    assert flat.tensors["x"].dtype == np.float32
    np.testing.assert_array_equal(flat.tensors["x"], nested.tensors["x"])


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (x(name="y"), "unknown tensor 'y'; wanted x"),
        (x(datatype="FP64"), r"'x' is 'FP64'; wanted FP32 \[B, 2\]"),
        (x(shape=[1, 3]), r"has shape \[1, 3\]; wanted FP32 \[B, 2\]"),
        (x(shape=[2]), r"has shape \[2\]"),
        (x(shape="12"), "has shape '12'"),
        (x(shape=[-1, 2]), r"has shape \[-1, 2\]"),
        (x(shape=[True, 2]), "has shape"),
        (x(data=[1.0]), r"\[1, 2\] came with 1 values; wanted 2"),
        (x(data=["1", "2"]), "holds a string; wanted numbers only"),
        (x(data=[None, 1.0]), "holds a null; wanted numbers only"),
        (x(data=[[1.0], [2.0, 3.0]]), "ragged"),
        (x(data=[True, False]), "holds a boolean"),
        (x(data=7), "'data' is a number; wanted a list"),
        (x(data=None), "'data' is a null"),
        (x(parameters={"binary_data_size": 8}), "binary_data_size is 8; 0 bytes are left"),
        (x(parameters={"binary_data_size": -1}), "binary_data_size is -1"),
    ],
)
def test_a_tensor_that_is_not_what_was_wanted_is_refused_by_name(tensor, message):
    with pytest.raises(InvalidInput, match=message):
        decode_v2(body(tensor), None, [X], [])


def test_tensors_of_other_names_are_passed_over_with_their_bytes_where_that_is_said():
    more = x(name="y", datatype="FP64", parameters={"binary_data_size": 3})
    more.pop("data")
    content = body(more, x())

    request = decode_v2(content + b"abc", str(len(content)), [X], [], passing_over_others=True)

    assert list(request.tensors) == ["x"]
    with pytest.raises(InvalidInput, match="tensor 'y': binary_data_size is 3; 0 bytes are left"):
        decode_v2(content, str(len(content)), [X], [], passing_over_others=True)


def test_missing_repeated_and_unequal_tensors_are_refused():
    count = {"name": "count", "datatype": "INT64", "shape": [2], "data": [1, 2]}

    with pytest.raises(InvalidInput, match="tensor 'count' is missing"):
        decode_v2(body(x()), None, [X, COUNT], [])
    with pytest.raises(InvalidInput, match="'x' is there twice"):
        decode_v2(body(x(), x()), None, [X], [])
    with pytest.raises(InvalidInput, match="different numbers of rows"):
        decode_v2(body(x(), count), None, [X, COUNT], [])


def test_whole_numbers_that_do_not_fit_are_refused_not_wrapped():
    for value in (2**63, -(2**63) - 1, 1.5, 1e300):
        with pytest.raises(InvalidInput, match="tensor 'count'"):
            decode_v2(body({"name": "count", "datatype": "INT64", "shape": [1], "data": [value]}), None, [COUNT], [])


def test_binary_tensors_follow_the_json_part():
    features = np.arange(6, dtype=np.float32).reshape(3, 2)

    content, length = encode_v2_request({"x": ("FP32", features)}, "a")
    request = decode_v2(content, str(length), [X], [])

    assert request.id == "a"
    np.testing.assert_array_equal(request.tensors["x"], features)


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1e3", "٣"])
def test_a_json_length_that_cannot_be_is_refused(length):
    with pytest.raises(InvalidInput, match="inference-header-content-length"):
        decode_v2(body(x()), length, [X], [])


def test_bytes_left_over_are_refused():
    content, length = encode_v2_request({"x": ("FP32", np.zeros((1, 2), np.float32))})

    with pytest.raises(InvalidInput, match="3 bytes follow the last tensor"):
        decode_v2(content + b"abc", str(length), [X], [])


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_strings_survive_both_encodings(names):
    """Text tensors are the same whether they came as JSON or as length-prefixed bytes."""
    array = np.empty(len(names), object)
    array[:] = names
    content, length = encode_v2_request({"name": ("BYTES", array)})
    plain = body({"name": "name", "datatype": "BYTES", "shape": [len(names)], "data": names})

    assert decode_v2(content, str(length), [NAME], []).tensors["name"].tolist() == names
    assert decode_v2(plain, None, [NAME], []).tensors["name"].tolist() == names


@pytest.mark.parametrize("raw", [b"\x01", struct.pack("<I", 5) + b"ab", struct.pack("<I", 1) + b"\xff"])
def test_broken_strings_are_refused(raw):
    head = json.dumps(
        {"inputs": [{"name": "name", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}]}
    ).encode()

    with pytest.raises(InvalidInput, match="tensor 'name'"):
        decode_v2(head + raw, str(len(head)), [NAME], [])


def test_an_output_is_given_as_it_was_asked_for():
    answer = V2Answer({"a": ("FP32", np.float32([1])), "b": ("INT64", np.int64([2]))}, "3", {"threshold": 0.5})
    asked = decode_v2(
        body(x(), outputs=[{"name": "b", "parameters": {"binary_data": True}}], id="q"), None, [X], ["a", "b"]
    )

    content, length = encode_v2(asked, answer, "model")

    head = json.loads(content[:length])
    assert head["id"] == "q"
    assert head["model_version"] == "3"
    assert head["parameters"] == {"threshold": 0.5}
    assert [output["name"] for output in head["outputs"]] == ["b"]
    assert content[length:] == np.int64([2]).tobytes()


def test_binary_data_output_is_for_every_output():
    asked = decode_v2(body(x(), parameters={"binary_data_output": True}), None, [X], ["a"])

    assert asked.binary == {"a"}
    with pytest.raises(InvalidInput, match="unknown output 'z'; wanted a"):
        decode_v2(body(x(), outputs=[{"name": "z"}]), None, [X], ["a"])
    with pytest.raises(InvalidInput, match="'binary_data_output' is 'yes'"):
        decode_v2(body(x(), parameters={"binary_data_output": "yes"}), None, [X], ["a"])


def test_an_answer_without_binary_outputs_is_plain_json():
    content, length = encode_v2(V2Request({}, "1"), V2Answer({"a": ("BOOL", np.array([True]))}, "2"), "m")

    assert length is None
    assert json.loads(content)["outputs"] == [{"name": "a", "shape": [1], "datatype": "BOOL", "data": [True]}]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_no_json_value_breaks_the_decoder(value):
    """Whatever stands where a tensor's data belongs, the answer is a tensor or InvalidInput."""
    try:
        text = json.dumps({"inputs": [x(value)]}).encode()
        decoded = decode_v2(text, None, [X], [])
    except InvalidInput:
        return
    assert decoded.tensors["x"].shape == (1, 2)
