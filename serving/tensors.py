"""Tensors of the Open Inference Protocol: what a server wants, and JSON lists or raw bytes as arrays of just that.

Everything else is refused with an error that names the tensor, what it got and what was wanted. Bodies and outputs are
`protocol.py`'s.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput

MAX_ROWS: Final = 1024
"""Rows of one request; a client with more sends several."""

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""Datatypes of the protocol that our servers read or write. BYTES are strings here."""


class TooLarge(InvalidInput):
    """A request is larger than the server takes (HTTP 413)."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as the model's metadata announces it; -1 in `shape` is the number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    also: str = ""
    """Another datatype that it may come in; the metadata names the first."""

    def metadata(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def of(self, datatype: Any) -> TensorSpec:
        """The tensor as it comes; raises InvalidInput for a datatype that it may not have."""
        if datatype == self.datatype:
            return self
        if not self.also or datatype != self.also:
            raise InvalidInput(f"tensor {self.name!r} is {datatype!r}; wanted {self}")
        return replace(self, datatype=self.also)

    def fit(self, shape: Any) -> tuple[int, ...]:
        """A shape from a request, when it is one that this tensor may have; raises InvalidInput."""
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise InvalidInput(f"tensor {self.name!r} has shape {shape!r}; wanted {self}")
        if len(self.shape) == 1 and len(shape) == 2 and shape[1] == 1:
            shape = shape[:1]  # clients built on data frames send a column as [B, 1]
        fits = all(wanted < 0 or got == wanted for got, wanted in zip(shape, self.shape, strict=False))
        if len(shape) != len(self.shape) or not fits:
            raise InvalidInput(f"tensor {self.name!r} has shape {shape!r}; wanted {self}")
        return tuple(shape)

    def __str__(self) -> str:
        return f"{self.datatype} [{', '.join('B' if size < 0 else str(size) for size in self.shape)}]"


def spec_of(name: Any, datatype: Any, specs: Mapping[str, TensorSpec], seen: Mapping[str, Any]) -> TensorSpec:
    """The spec that a request's tensor is of; raises InvalidInput for one that is unknown, of another type, or seen."""
    if not isinstance(name, str) or name not in specs:
        raise InvalidInput(f"unknown tensor {name!r}; wanted {', '.join(specs)}")
    if name in seen:
        raise InvalidInput(f"tensor {name!r} is there twice; wanted it once")
    return specs[name].of(datatype)


def read_tensor(item: dict[str, Any], spec: TensorSpec, rest: memoryview) -> tuple[NDArray[Any], memoryview]:
    shape = spec.fit(item.get("shape"))
    size = _binary_size(item, spec.name, rest)
    if size is None:
        return from_values(item.get("data"), spec, shape), rest
    return from_binary(rest[:size], spec, shape), rest[size:]


def passed_over(item: dict[str, Any], rest: memoryview) -> memoryview:
    """What follows the binary data of a tensor that nobody reads; raises InvalidInput for a size that is none."""
    return rest[_binary_size(item, str(item["name"]), rest) or 0 :]


def _binary_size(item: dict[str, Any], name: str, rest: memoryview) -> int | None:
    """Bytes that a tensor has behind the JSON; None where it has none there."""
    parameters = item.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return None
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidInput(f"tensor {name!r}: binary_data_size is {size!r}; {len(rest)} bytes are left in the body")
    return size


def numbers(data: Any, dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """A JSON list as an array of `dtype`; raises InvalidInput for text, nulls, ragged lists, overflow."""
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{what} is ragged; wanted lists of equal length") from error
    kinds = {"b": "b", "i": "iu", "f": "fiu"}[dtype.kind]
    if array.size and array.dtype.kind not in kinds:
        raise InvalidInput(f"{what} holds {_odd_value(data)}; wanted {_noun(dtype)} only")
    if dtype.kind == "i" and array.size and not _fits(array, dtype):
        raise InvalidInput(f"{what} holds a number outside {dtype}; wanted {dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, which the caller refuses with the row's number
        return array.astype(dtype)


def require_finite(array: NDArray[Any], what: str) -> None:
    """Raise InvalidInput naming the first row that holds NaN or an infinity."""
    finite = np.isfinite(array)
    if not finite.all():
        place = np.argwhere(~finite)[0]
        value = array[tuple(place)]
        raise InvalidInput(f"{what} holds {value} in row {place[0]}; wanted finite numbers")


def require_rows(rows: int) -> None:
    if rows == 0:
        raise InvalidInput("the request has no rows; wanted at least 1")
    if rows > MAX_ROWS:
        raise TooLarge(f"the request has {rows} rows; wanted at most {MAX_ROWS}. Split it.")


def require_tensors(tensors: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> None:
    """Raise InvalidInput for a missing tensor, or when their numbers of rows differ."""
    missing = [spec for spec in specs if not spec.optional and spec.name not in tensors]
    if missing:
        raise InvalidInput(f"tensor {missing[0].name!r} is missing; wanted {missing[0]}")
    rows = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(rows.values())) > 1:
        raise InvalidInput(f"the tensors have different numbers of rows: {rows}; wanted as many of each")
    require_rows(next(iter(rows.values())))


def from_binary(raw: memoryview | bytes, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    """Little-endian raw bytes as a tensor of `spec`; raises InvalidInput when their number is not the shape's."""
    if spec.datatype == "BYTES":
        return _reshape(_strings(bytes(raw), spec.name), spec, shape)
    dtype = DTYPES[spec.datatype]
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise InvalidInput(f"tensor {spec.name!r} {list(shape)} came with {len(raw)} bytes of {spec.datatype}")
    return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).reshape(shape)


def to_binary(datatype: str, array: NDArray[Any]) -> bytes:
    if datatype != "BYTES":
        return array.astype(DTYPES[datatype].newbyteorder("<"), copy=False).tobytes()
    encoded = [item.encode() for item in array.ravel()]
    return b"".join(part for item in encoded for part in (struct.pack("<I", len(item)), item))


def text(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Bytes objects as str; raises InvalidInput when they are not UTF-8."""
    try:
        strings = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"tensor {name!r} holds bytes that are not UTF-8: {error.reason}") from error
    return _text(strings)


def _text(values: list[Any]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def from_values(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    """A list of values, flat or nested, as a tensor of `spec`."""
    if not isinstance(data, list):
        raise InvalidInput(f"tensor {spec.name!r}: 'data' is a {kind(data)}; wanted a list")
    if spec.datatype == "BYTES":
        array = text(
            _text([value for item in data for value in (item if isinstance(item, list) else [item])]), spec.name
        )
        _require_strings(array, spec.name)
    else:
        array = numbers(data, DTYPES[spec.datatype], f"tensor {spec.name!r}")
    return _reshape(array, spec, shape)


def _reshape(array: NDArray[Any], spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    if array.size != math.prod(shape):
        raise InvalidInput(
            f"tensor {spec.name!r} {list(shape)} came with {array.size} values; wanted {math.prod(shape)}"
        )
    return array.reshape(shape)


def _strings(raw: bytes, name: str) -> NDArray[Any]:
    """Each string is preceded by its length, 4 bytes little-endian."""
    found, place = [], 0
    while place < len(raw):
        if place + 4 > len(raw):
            raise InvalidInput(f"tensor {name!r} ends inside a length; wanted 4 bytes before each string")
        (length,) = struct.unpack_from("<I", raw, place)
        place += 4 + length
        if place > len(raw):
            raise InvalidInput(f"tensor {name!r} ends inside a string of {length} bytes")
        found.append(raw[place - length : place])
    return text(np.array(found, dtype=object), name)


def _require_strings(array: NDArray[Any], name: str) -> None:
    odd = [item for item in array if not isinstance(item, str)]
    if odd:
        raise InvalidInput(f"tensor {name!r} holds a {kind(odd[0])}; wanted strings")


def _fits(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(array.min()) >= limits.min and int(array.max()) <= limits.max


def _odd_value(data: Any) -> str:
    """What in a nested list is not a number, for an error message."""
    while isinstance(data, list) and data:
        data = next((item for item in data if isinstance(item, list) or type(item) not in (int, float)), data[0])
    return f"a {kind(data)}"


def _noun(dtype: np.dtype[Any]) -> str:
    return {"b": "true and false", "i": "whole numbers", "f": "numbers"}[dtype.kind]


def kind(value: Any) -> str:
    names = {
        dict: "object",
        list: "list",
        str: "string",
        bool: "boolean",
        type(None): "null",
        int: "number",
        float: "number",
    }
    return names.get(type(value), type(value).__name__)
