"""Request and response bodies of the V1 and V2 (Open Inference) protocols over REST; no I/O.

A V2 body may be JSON, or JSON followed by binary tensors, the JSON part's length in a header. gRPC is `rpc.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from serving.tensors import (
    TensorSpec,
    kind,
    passed_over,
    read_tensor,
    require_rows,
    require_tensors,
    spec_of,
    to_binary,
)

JSON_LENGTH_HEADER: Final = "inference-header-content-length"
BOM: Final = b"\xef\xbb\xbf"
"""What some writers of UTF-8 put in front; RFC 8259 lets a reader ignore it."""


@dataclass(frozen=True, slots=True)
class V2Request:
    """A decoded infer request: `tensors` by name, all with the same number of rows."""

    tensors: dict[str, NDArray[Any]]
    id: str = ""
    binary: frozenset[str] = field(default_factory=frozenset)
    """Outputs that the client wants as binary tensors."""
    outputs: tuple[str, ...] = ()
    """Outputs that the client asked for; empty means all."""


@dataclass(frozen=True, slots=True)
class V2Answer:
    """Output tensors by name (datatype, array), whose model made them, and the response's parameters."""

    outputs: Mapping[str, tuple[str, NDArray[Any]]]
    model_version: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def decode_json(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; raises InvalidInput (NaN and Infinity are not JSON)."""
    try:
        document = orjson.loads(body.removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"the body is a JSON {kind(document)}; wanted an object")
    return document


def decode_v1(document: Mapping[str, Any]) -> list[Any]:
    """`{"instances": [...]}` → its instances, at least one and at most MAX_ROWS."""
    unknown = sorted(document.keys() - {"instances"})
    if unknown:
        raise InvalidInput(f"unknown key {unknown[0]!r}; wanted only 'instances'")
    instances = document.get("instances")
    if not isinstance(instances, list):
        got = "missing" if instances is None else f"a {kind(instances)}"
        raise InvalidInput(f"'instances' is {got}; wanted a list with one object per row")
    require_rows(len(instances))
    return instances


def decode_v2(
    body: bytes,
    json_length: str | None,
    specs: Sequence[TensorSpec],
    outputs: Sequence[str],
    *,
    place: int | None = None,
    passing_over_others: bool = False,
) -> V2Request:
    """An infer request for the tensors `specs`; `json_length` is the header's value where binary data follows.

    `place`: which of several inputs in the request is read (`serving.reads`); None where there is only one. Tensors of
    other names are passed over, or refused.
    """
    length = _json_length(json_length, len(body))
    document = decode_json(body[:length])
    inputs = document.get("inputs")
    if not isinstance(inputs, list):
        raise InvalidInput(f"'inputs' is a {kind(inputs)}; wanted a list of tensors")
    tensors: dict[str, NDArray[Any]] = {}
    by_name = {spec.name: spec for spec in specs}
    rest = memoryview(body)[length:]
    for item in inputs:
        name, datatype = (item.get("name"), item.get("datatype")) if isinstance(item, dict) else (None, None)
        if place is not None and isinstance(name, str):
            name, _, at = name.partition("@")
            if at != str(place or ""):
                rest = passed_over(item, rest)
                continue
        if passing_over_others and isinstance(name, str) and name not in by_name:
            rest = passed_over(item, rest)
            continue
        spec = spec_of(name, datatype, by_name, tensors)
        tensors[spec.name], rest = read_tensor(item, spec, rest)
    if len(rest):
        raise InvalidInput(f"{len(rest)} bytes follow the last tensor; wanted none")
    require_tensors(tensors, specs)
    names, binary = _requested_outputs(document, outputs)
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInput(f"'id' is a {kind(request_id)}; wanted a string")
    return V2Request(tensors, request_id, binary, names)


def require_output(name: Any, known: Sequence[str]) -> None:
    """Raise InvalidInput for an output that the model does not have."""
    if name not in known:
        raise InvalidInput(f"unknown output {name!r}; wanted {', '.join(known)}")


def encode_json(document: Mapping[str, Any]) -> bytes:
    return orjson.dumps(document)


def rewritten(document: Mapping[str, Any]) -> bytes:
    """A client's document as JSON again; raises InvalidInput where it is nested deeper than can be written."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError as error:
        raise InvalidInput(f"the document cannot be passed on: {error}") from error


def encode_v2(request: V2Request, answer: V2Answer, model_name: str) -> tuple[bytes, int | None]:
    """The answer as a body, and its JSON part's length where binary tensors follow."""
    described, chunks = [], []
    for name in request.outputs or tuple(answer.outputs):
        datatype, array = answer.outputs[name]
        item: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if name in request.binary:
            chunk = to_binary(datatype, array)
            item["parameters"] = {"binary_data_size": len(chunk)}
            chunks.append(chunk)
        else:
            item["data"] = array.ravel().tolist()
        described.append(item)
    document: dict[str, Any] = {"model_name": model_name, "model_version": answer.model_version, "id": request.id}
    if answer.parameters:
        document["parameters"] = dict(answer.parameters)
    head = orjson.dumps(document | {"outputs": described})
    return (b"".join([head, *chunks]), len(head)) if chunks else (head, None)


def encode_v2_request(tensors: Mapping[str, tuple[str, NDArray[Any]]], request_id: str = "") -> tuple[bytes, int]:
    """Tensors as a binary infer request, and its JSON part's length; the transformer's call of the predictor."""
    chunks = [to_binary(datatype, array) for datatype, array in tensors.values()]
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": datatype, "parameters": {"binary_data_size": len(chunk)}}
        for (name, (datatype, array)), chunk in zip(tensors.items(), chunks, strict=True)
    ]
    head = orjson.dumps({"id": request_id, "inputs": inputs})
    return b"".join([head, *chunks]), len(head)


def _json_length(header: str | None, total: int) -> int:
    if header is None:
        return total
    if not header.isascii() or not header.isdigit() or int(header) > total:
        raise InvalidInput(f"{JSON_LENGTH_HEADER} is {header!r}; wanted a length in bytes, at most the body's {total}")
    return int(header)


def _requested_outputs(document: dict[str, Any], known: Sequence[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    everywhere = _flag(document.get("parameters"), "binary_data_output", default=False)
    wanted = document.get("outputs") or []
    if not isinstance(wanted, list) or not all(isinstance(item, dict) for item in wanted):
        raise InvalidInput("'outputs' is not a list of objects with a 'name'")
    names, binary = [], set(known) if everywhere else set()
    for item in wanted:
        name = item.get("name")
        require_output(name, known)
        names.append(name)
        binary.discard(name)
        if _flag(item.get("parameters"), "binary_data", default=everywhere):
            binary.add(name)
    return tuple(names), frozenset(binary)


def _flag(parameters: Any, name: str, *, default: bool) -> bool:
    value = parameters.get(name, default) if isinstance(parameters, dict) else default
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter {name!r} is {value!r}; wanted true or false")
    return value
