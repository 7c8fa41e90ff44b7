"""Bodies of KServe's logger, V1 and V2, as parts of prediction rows: as far as a request or a response says them.

The logger sits before the transformer (transactions in, decisions out) or before the predictor (tensors in, scores
out); a field that neither half names stays empty. Customer ids come raw and leave as pseudonyms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from millrace.errors import InvalidInput
from millrace.pseudonyms import pseudonym

REQUEST: Final = "org.kubeflow.serving.inference.request"
RESPONSE: Final = "org.kubeflow.serving.inference.response"
PSEUDONYM: Final = re.compile("[0-9a-f]{16}")
INT64: Final = 1 << 63

Row = dict[str, Any]


class Payloads:
    """Reads bodies; `key` makes pseudonyms, which with `accept_pseudonyms` are let through as they are."""

    def __init__(self, key: bytes, *, accept_pseudonyms: bool = False) -> None:
        self._key, self._accept = key, accept_pseudonyms

    def request(self, body: Mapping[str, Any]) -> list[Row]:
        """One part of a row per instance or tensor row; raises InvalidInput."""
        rows: Sequence[Mapping[str, Any]]
        if "instances" in body:
            rows = [_object(item, f"instances[{i}]") for i, item in enumerate(_list(body["instances"], "instances"))]
        else:
            rows = _tensor_rows(body, "inputs")
        return [_checked(row, self._request_fields, place) for place, row in enumerate(rows)]

    def response(self, body: Mapping[str, Any]) -> list[Row]:
        """Score, decision and version per row; the decision of a bare score comes from the threshold beside it."""
        about = body.get("parameters") if isinstance(body.get("parameters"), Mapping) else {}
        about = {**body, **(about or {})}
        rows: Sequence[Mapping[str, Any]]
        if "predictions" in body:
            listed = _list(body["predictions"], "predictions")
            rows = [item if isinstance(item, Mapping) else {"score": item} for item in listed]
        else:
            rows = _tensor_rows(body, "outputs")
        parts = [_checked(row, _RESPONSE_FIELDS, place) for place, row in enumerate(rows)]
        return [_with_model(part, about) for part in parts]

    @property
    def _request_fields(self) -> Mapping[str, Callable[[Any], Any]]:
        return _REQUEST_FIELDS | {"customer_id": self._customer}

    def _customer(self, value: Any) -> str:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise InvalidInput(f"wanted text, got a {type(value).__name__}")
        known = self._accept and isinstance(value, str) and PSEUDONYM.fullmatch(value)
        return str(value) if known else pseudonym(value, self._key)


def _with_model(part: Row, about: Mapping[str, Any]) -> Row:
    version, threshold = about.get("model_version"), about.get("decision_threshold")
    if version is not None:
        part.setdefault("model_version", _text(version))
    if isinstance(threshold, int | float) and "score" in part:
        part.setdefault("decision", "review" if part["score"] >= threshold else "approve")
    return part


def _checked(row: Mapping[str, Any], fields: Mapping[str, Callable[[Any], Any]], place: int) -> Row:
    """The fields of a row that the log keeps; what is null or of another name is left out."""
    kept = {}
    for name, check in fields.items():
        if row.get(name) is not None:
            try:
                kept[name] = check(row[name])
            except InvalidInput as error:
                raise InvalidInput(f"row {place}: {name!r} {error}") from error
    return kept


def _tensor_rows(body: Mapping[str, Any], name: str) -> list[Row]:
    """V2 tensors, transposed: one object per row, of the tensors whose first dimension is the batch."""
    if name not in body:
        wanted = {"inputs": "'instances' (V1) or 'inputs' (V2)", "outputs": "'predictions' (V1) or 'outputs' (V2)"}
        raise InvalidInput(f"the body has {sorted(body)}; wanted {wanted[name]}")
    columns: dict[str, Sequence[Any]] = {}
    for place, item in enumerate(_list(body[name], name)):
        tensor = _object(item, f"{name}[{place}]")
        columns[str(tensor.get("name"))] = _rows_of(tensor, f"{name}[{place}]")
    counts = {len(values) for values in columns.values()}
    if len(counts) > 1:
        raise InvalidInput(f"the tensors of {name!r} have {sorted(counts)} rows; wanted as many of each")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _rows_of(tensor: Mapping[str, Any], place: str) -> list[Any]:
    data, shape = _list(tensor.get("data"), f"{place}.data"), _list(tensor.get("shape"), f"{place}.shape")
    if not shape or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidInput(f"{place}.shape is {shape!r}; wanted whole numbers, the batch first")
    rows = shape[0]
    if len(data) == rows:  # one value a row, or nested lists
        return data
    if len(data) != math.prod(shape):
        raise InvalidInput(f"{place}.data has {len(data)} values; wanted {math.prod(shape)} of shape {shape}")
    width = len(data) // rows
    if width == 0:
        raise InvalidInput(f"{place}.shape is {shape!r}; wanted values in every row")
    return [data[start : start + width] for start in range(0, len(data), width)]


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{what} is a {type(value).__name__}; wanted a list")
    return value


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{what} is a {type(value).__name__}; wanted an object")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not -INT64 <= value < INT64:
        raise InvalidInput(f"wanted a whole number of 64 bits, got {str(value)[:60]!r}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InvalidInput(f"wanted a number, got {str(value)[:60]!r}")
    return float(value)


def _text(value: Any) -> str:
    if type(value) not in (str, int) or len(text := str(value)) > 256 or "\0" in text:
        raise InvalidInput(f"wanted text of at most 256 characters, got {str(value)[:60]!r}")
    return text


def _instant(value: Any) -> str:
    try:
        instant = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"wanted ISO 8601, got {str(value)[:60]!r}") from error
    if instant.tzinfo is None or not 1970 <= instant.year < 2200:
        raise InvalidInput(f"wanted an offset and a year from 1970 to 2199, got {value!r}")
    return instant.isoformat()


def _flag(value: Any) -> bool:
    if value not in (True, False):
        raise InvalidInput(f"wanted true or false, got {str(value)[:60]!r}")
    return bool(value)


def _features(value: Any) -> str:
    if not isinstance(value, list) or len(value) > 1024:
        raise InvalidInput("wanted a list of at most 1024 numbers")
    return orjson.dumps([None if item is None else _number(item) for item in value]).decode()


_REQUEST_FIELDS: Final[dict[str, Callable[[Any], Any]]] = {
    "transaction_id": _whole,
    "event_timestamp": _instant,
    "terminal_id": _text,
    "amount": _number,
    "features": _features,
}
_RESPONSE_FIELDS: Final[dict[str, Callable[[Any], Any]]] = {
    "transaction_id": _whole,
    "score": _number,
    "decision": _text,
    "model_version": _text,
    "degraded": _flag,
}
LOGGED: Final = _REQUEST_FIELDS.keys() | _RESPONSE_FIELDS.keys() | {"customer_id"}
"""Tensors that the log keeps; the rest of a body is not read."""
