"""Bodies of KServe's logger, V1 and V2, as parts of scored rows: as far as a request or a response says them.

The logger sits before the transformer (events in, answers out) or before the predictor (tensors in, scores out); a
field that neither half names stays empty. Ids of pseudonymised entities come raw and leave as pseudonyms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from millrace.errors import InvalidInput
from millrace.events.prediction import (
    APPROVE,
    FIRST_YEAR,
    LAST_YEAR,
    MAX_FEATURES,
    MAX_TEXT,
    PSEUDONYM,
    REVIEW,
    told_of,
)
from millrace.fields import Kept
from millrace.installed import load, names
from millrace.pseudonyms import pseudonym
from millrace.workload import Task

INT64: Final = 1 << 63

Row = dict[str, Any]
Read = Callable[[Any], Any]


class Payloads:
    """Reads bodies of a workload's model; `key` makes pseudonyms, which may be let through as they are."""

    def __init__(self, workload: str, key: bytes, *, accept_pseudonyms: bool = False) -> None:
        self.workload = workload
        self._told, self._key, self._accept = told_of(workload), key, accept_pseudonyms

    @cached_property
    def tensors(self) -> frozenset[str]:
        """Tensors of a body that are read."""
        return frozenset(self._request_fields.keys() | self._response_fields.keys() | self._figures.keys())

    def request(self, body: Mapping[str, Any]) -> list[Row]:
        """One part of a row per instance or tensor row, by the workload's names; raises InvalidInput."""
        rows: Sequence[Mapping[str, Any]]
        if "instances" in body:
            rows = [_object(item, f"instances[{i}]") for i, item in enumerate(_list(body["instances"], "instances"))]
        else:
            rows = _tensor_rows(body, "inputs")
        return [_checked(row, self._request_fields, place) for place, row in enumerate(rows)]

    def response(self, body: Mapping[str, Any]) -> list[Row]:
        """Score, interval or decision, and version per row; a bare score's decision follows from the threshold."""
        about = body.get("parameters") if isinstance(body.get("parameters"), Mapping) else {}
        about = {**body, **(about or {})}
        rows: Sequence[Mapping[str, Any]]
        if "predictions" in body:
            listed = _list(body["predictions"], "predictions")
            rows = [item if isinstance(item, Mapping) else {"score": item} for item in listed]
        else:
            rows = _tensor_rows(body, "outputs")
        named = ({self._figures.get(name, name): value for name, value in row.items()} for row in rows)
        parts = [_checked(row, self._response_fields, place) for place, row in enumerate(named)]
        return [_with_model(part, about) for part in parts]

    @cached_property
    def _figures(self) -> Mapping[str, str]:
        """What the transformer's answers call a figure → its own name, which a predictor's answers have."""
        return {shown: name for name, shown in load(self.workload).exchange.ANSWER.items()}

    @cached_property
    def _request_fields(self) -> Mapping[str, Read]:
        told = self._told
        keys = {name: self._pseudonym if name in told.pseudonyms else _text for name in told.keys}
        fields = {name: _kept(kept) for name, kept in told.fields.items()}
        return {told.event_id: _whole, "event_timestamp": _instant, **keys, **fields, "features": _features}

    @cached_property
    def _response_fields(self) -> Mapping[str, Read]:
        answer = {"low": _number, "high": _number} if self._told.task is Task.REGRESSION else {"decision": _text}
        return {self._told.event_id: _whole, "score": _number, **answer, "model_version": _text, "degraded": _flag}

    def _pseudonym(self, value: Any) -> str:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise InvalidInput(f"wanted text, got a {type(value).__name__}")
        known = self._accept and isinstance(value, str) and PSEUDONYM.fullmatch(value)
        return str(value) if known else pseudonym(value, self._key)


class Bodies:
    """Readers of every installed workload, by its model's name; a model of another name is the default workload's."""

    def __init__(self, workload: str, key: bytes, *, accept_pseudonyms: bool = False) -> None:
        readers = {name: Payloads(name, key, accept_pseudonyms=accept_pseudonyms) for name in {workload, *names()}}
        self.default = workload
        self._default = readers[workload]
        self._by_model = {load(name).model_name: reader for name, reader in readers.items()}
        self.tensors = frozenset[str]().union(*(reader.tensors for reader in readers.values()))

    def of(self, model_name: str) -> Payloads:
        return self._by_model.get(model_name, self._default)


def _kept(kept: Kept) -> Read:
    return _text if pa.types.is_string(kept.type) else _number


def _with_model(part: Row, about: Mapping[str, Any]) -> Row:
    version, threshold = about.get("model_version"), about.get("decision_threshold")
    if version is not None:
        part.setdefault("model_version", _text(version))
    if isinstance(threshold, int | float) and "score" in part:
        part.setdefault("decision", REVIEW if part["score"] >= threshold else APPROVE)
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
    if type(value) not in (str, int) or len(text := str(value)) > MAX_TEXT or "\0" in text:
        raise InvalidInput(f"wanted text of at most 256 characters, got {str(value)[:60]!r}")
    return text


def _instant(value: Any) -> str:
    try:
        instant = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"wanted ISO 8601, got {str(value)[:60]!r}") from error
    if instant.tzinfo is None or not FIRST_YEAR <= instant.year < LAST_YEAR:
        raise InvalidInput(f"wanted an offset and a year from {FIRST_YEAR} to {LAST_YEAR - 1}, got {value!r}")
    return instant.isoformat()


def _flag(value: Any) -> bool:
    if value not in (True, False):
        raise InvalidInput(f"wanted true or false, got {str(value)[:60]!r}")
    return bool(value)


def _features(value: Any) -> list[float | None]:
    if not isinstance(value, list) or len(value) > MAX_FEATURES:
        raise InvalidInput(f"wanted a list of at most {MAX_FEATURES} numbers")
    return [None if item is None else _number(item) for item in value]
