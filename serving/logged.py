"""Bodies that KServe's logger forwards, as documents: JSON, or JSON with binary tensors behind it, turned into lists.

The logger passes the body and its content type on and no header that says where the JSON ends, so that is found in the
body; where `inference-header-content-length` did come along, it is held to it. Tensors nobody asked for are left out.
"""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any, Final

import orjson

from millrace.errors import InvalidInput
from serving.protocol import decode_json
from serving.tensors import DTYPES, TensorSpec, from_binary, require_finite

TENSORS: Final = ("inputs", "outputs")
_HEAD: Final = json.JSONDecoder()


def decode_logged(body: bytes, wanted: Container[str], json_length: str | None = None) -> dict[str, Any]:
    """The body's object, each of its tensors with its `data`; raises InvalidInput, also for what is not finite."""
    if json_length is None and not _is_binary(body):
        return decode_json(body)
    length = _head_length(body) if json_length is None else _told_length(json_length, len(body))
    document = decode_json(body[:length])
    rest = memoryview(body)[length:]
    for side in TENSORS:
        if side in document:
            document[side], rest = _filled(document[side], wanted, rest)
    if len(rest):
        raise InvalidInput(f"{len(rest)} bytes follow the last tensor; wanted none")
    return document


def _is_binary(body: bytes) -> bool:
    """Whether something follows the JSON object; what is no JSON at all is left to whoever reads it."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:1] == b"{"
    return False


def _head_length(body: bytes) -> int:
    try:
        # As Latin-1 a byte is a character: JSON's own are ASCII, and what is inside strings is read again below.
        return _HEAD.raw_decode(body.decode("latin-1"))[1]
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is neither JSON nor JSON with binary tensors behind it: {error}") from error


def _told_length(text: str, total: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= total):
        raise InvalidInput(f"the JSON part's length is {text!r}; wanted a number of bytes, at most the body's {total}")
    return int(text)


def _filled(items: Any, wanted: Container[str], rest: memoryview) -> tuple[list[dict[str, Any]], memoryview]:
    """(the tensors that somebody wants, with their data; what is left of the body)"""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidInput("the body's tensors are no list of objects")
    filled = []
    for item in items:
        parameters = item.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is not None and (type(size) is not int or not 0 <= size <= len(rest)):
            raise InvalidInput(f"tensor {item.get('name')!r}: binary_data_size is {size!r}; {len(rest)} bytes are left")
        if item.get("name") in wanted:
            filled.append(item if size is None else _with_data(item, rest[:size]))
        rest = rest[size or 0 :]
    return filled, rest


def _with_data(item: dict[str, Any], part: memoryview) -> dict[str, Any]:
    name, datatype, shape = str(item.get("name")), item.get("datatype"), item.get("shape")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InvalidInput(f"tensor {name!r} is {datatype!r}; wanted one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not shape:
        raise InvalidInput(f"tensor {name!r} has shape {shape!r}; wanted a list of sizes, the batch first")
    spec = TensorSpec(name, datatype, (-1,) * len(shape))
    array = from_binary(part, spec, spec.fit(shape))
    if array.dtype.kind == "f":
        require_finite(array, f"tensor {name!r}")
    return {**item, "data": array.ravel().tolist()}
