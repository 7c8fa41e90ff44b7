"""Columns of one's own as numbers: what a request or a table says of them, and the features that each of them is.

Every column is an array of float64, NaN where nothing is said: a number, 0 or 1, microseconds since 1970 UTC, or the
code of a level. Whole days and single requests become the same arrays, and share every formula after that.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.fields import Field, Kind
from millrace.instants import DAY_US

CODES: Final = 2**24
"""Codes of levels lie below this, so that float32 holds them; of a thousand levels, some two share one by chance in
one table of thirty."""
LARGEST: Final = 1e30
"""Numbers beyond this, either way, are this: float32 holds no larger ones."""
FAR_DAYS: Final = 36_500.0
"""Times further from an event than this, either way, are so far."""
HOUR_US: Final = 3_600_000_000
MISSING: Final = "missing"
CODE: Final = "code"

Floats = NDArray[np.float64]
Said = Mapping[str, Floats]
"""Column → [B]; NaN where nothing is said."""

KINDS: Final[Mapping[str, Kind]] = {
    "numeric": Kind.NUMBER,
    "categorical": Kind.KEY,
    "boolean": Kind.CLASS,
    "time": Kind.INSTANT,
}
"""What is declared → how the values are read."""


@dataclass(frozen=True, slots=True)
class OwnColumn:
    """A column that the base does not have."""

    name: str
    kind: str
    """numeric, categorical, boolean or time."""
    entity: str = ""
    """Whose property it is; empty: each event's own."""

    @property
    def field(self) -> Field:
        """Of the schema: a source may lack it, and so may a row."""
        return Field(name=self.name, kind=KINDS[self.kind], empty=True, optional=True)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the model's inputs."""
        parts = {"categorical": (CODE,), "time": ("days", "hour", MISSING)}.get(self.kind, ("value", MISSING))
        return tuple(f"{self.name}_{part}" for part in parts)

    def inputs(self, said: Floats, now_us: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B] what is said at [B] instants → [B, features]; where nothing is said 0, and MISSING is 1."""
        missing = np.isnan(said)
        if self.kind == "categorical":
            return np.where(missing, 0.0, said)[:, None].astype(np.float32)
        if self.kind == "time":
            days = np.where(missing, 0.0, np.clip((now_us - said) / DAY_US, -FAR_DAYS, FAR_DAYS))
            hour = np.where(missing, 0.0, said % DAY_US / HOUR_US)
            return np.stack([days, hour, missing], axis=1).astype(np.float32)
        value = np.where(missing, 0.0, np.clip(said, -LARGEST, LARGEST))
        return np.stack([value, missing], axis=1).astype(np.float32)


def code_of(level: str) -> int:
    """A level's number, the same in every process: 1 to CODES - 1."""
    return zlib.crc32(level.encode()) % (CODES - 1) + 1


def said_in_request(field: Field, values: NDArray[Any]) -> Floats:
    """[B] checked values of a request (`millrace.requests`)."""
    if field.kind is Kind.KEY:
        return np.array([_code(level) for level in values.tolist()], np.float64)
    numbers = values.astype(np.float64)
    return numbers / 100.0 if field.kind is Kind.MONEY else numbers


def said_in_table(field: Field, column: pa.ChunkedArray) -> Floats:
    """[B] values of a snapshot or a feature set."""
    if field.kind is Kind.KEY:
        return _codes(column)
    kind = pa.int64() if field.kind is Kind.INSTANT else pa.float64()
    numbers: Floats = column.cast(kind).cast(pa.float64()).fill_null(np.nan).to_numpy()
    if field.kind is Kind.MONEY:
        numbers = np.rint(numbers * 100.0) / 100.0
    return numbers


def joined(columns: Sequence[OwnColumn], said: Said, now_us: NDArray[np.int64]) -> NDArray[np.float32]:
    """The features of all columns side by side, [B, F of them]."""
    parts = [column.inputs(said[column.name], now_us) for column in columns]
    return np.concatenate([np.empty((len(now_us), 0), np.float32), *parts], axis=1)


@lru_cache(65_536)
def _code(level: str) -> float:
    return float(code_of(level)) if level else np.nan


def _codes(column: pa.ChunkedArray) -> Floats:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks else column
    if not len(array):
        return np.empty(0)

    known = np.array([*(_code(level or "") for level in array.dictionary.to_pylist()), np.nan])
    places = array.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)
    found: Floats = known[places]
    return found
