"""Labels from a file: CSV or Parquet with transaction_id, is_fraud and, if it is known, label_timestamp.

Whole columns are checked before anything is written, and a fault names its row. A row without `is_fraud` says nothing
and is left out. A time without an offset is UTC.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Final

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import sqlalchemy as sa

from fraud.schema import ALIASES
from millrace.errors import InvalidInput, NotFound, SchemaMismatch
from millrace.events.log import insert_labels, news, transaction

REQUIRED: Final = ("transaction_id", "is_fraud")
INSTANT: Final = pa.timestamp("us", tz="UTC")
CHUNK_ROWS: Final = 20_000
MEANINGS: Final = {"0": False, "1": True, "false": False, "true": True}
FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def load(uri: str, log: sa.Engine, now: datetime | None = None) -> tuple[int, int]:
    """Every label of a file into the log; (labels read, those that said something new). Loading it again adds none.

    Raises NotFound, SchemaMismatch, InvalidInput naming the row, Unavailable.
    """
    now = now or datetime.now(UTC)
    table = checked(read(uri))
    new = 0
    for start in range(0, table.num_rows, CHUNK_ROWS):
        rows = table.slice(start, CHUNK_ROWS).to_pylist()
        undated = [row | {"label_timestamp": now} for row in rows if row["label_timestamp"] is None]
        with transaction(log) as connection:
            new += insert_labels(connection, [row for row in rows if row["label_timestamp"] is not None])
            new += insert_labels(connection, news(connection, undated))
    return table.num_rows, new


def read_csv(body: bytes, received: datetime) -> list[dict[str, Any]]:
    """A CSV body → records for the journal."""
    from serving.prediction_log.core import label_record

    return [label_record(label, received) for label in checked(_csv(io.BytesIO(body))).to_pylist()]


def read(uri: str) -> pa.Table:
    """The file as it is."""
    readers: dict[str, Callable[[Any], pa.Table]] = {".csv": _csv, ".parquet": pq.read_table}
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix not in readers:
        raise InvalidInput(f"{uri} ends in {suffix!r}; wanted .csv or .parquet")
    try:
        with fsspec.open(uri, "rb") as stream:
            return readers[suffix](stream)
    except FileNotFoundError as error:
        raise NotFound(f"no labels at {uri}") from error
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"{uri} cannot be read: {error}") from error


def checked(table: pa.Table) -> pa.Table:
    """transaction_id int64, is_fraud bool, label_timestamp (null: not told); rows without is_fraud are left out."""
    table = table.rename_columns([ALIASES.get(name, name) for name in table.column_names])
    if missing := [name for name in REQUIRED if name not in table.column_names]:
        raise SchemaMismatch(f"the labels have no column {missing[0]!r}; they have {', '.join(table.column_names)}")
    is_fraud = _flags(table["is_fraud"])
    ids = _cast(table["transaction_id"], pa.int64(), "transaction_id", "a whole number")
    _refuse(pc.is_null(ids), table["transaction_id"], "transaction_id", "a whole number")
    told = "label_timestamp" in table.column_names
    known = _instants(table["label_timestamp"]) if told else pa.nulls(table.num_rows, INSTANT)
    rows = pa.table({"transaction_id": ids, "label_timestamp": known, "is_fraud": is_fraud})
    return rows.filter(pc.is_valid(is_fraud))


def _csv(stream: Any) -> pa.Table:
    """Every column as text: what it means is checked here, with the row's number."""
    try:
        head = stream.readline().decode("utf-8-sig").strip()
        names = [name.strip().strip('"') for name in head.split(",")]
        types = {name: pa.string() for name in names}
        convert = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
        return pyarrow.csv.read_csv(stream, pyarrow.csv.ReadOptions(column_names=names), convert_options=convert)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "Empty CSV" in str(error):
            return pa.table({name: pa.array([], pa.string()) for name in names})
        raise InvalidInput(f"the labels are no CSV: {error}") from error


def _flags(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """0, 1, true, false, or null."""
    if pa.types.is_floating(column.type):
        column = _cast(column, pa.int64(), "is_fraud", "0 or 1")
    text = pc.utf8_lower(pc.utf8_trim_whitespace(_cast(column, pa.string(), "is_fraud", "0 or 1")))
    place = pc.index_in(text, pa.array(list(MEANINGS)))
    _refuse(pc.and_(pc.is_null(place), pc.is_valid(column)), column, "is_fraud", "0 or 1")
    return pc.take(pa.array(list(MEANINGS.values())), place)


def _instants(column: pa.ChunkedArray) -> pa.ChunkedArray:
    wanted = "ISO 8601, as in 2018-10-07T12:00:00Z"
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # Arrow reads an offset only where every value has one: by value, then.
        values = [None if text is None else _instant(text) for text in column.to_pylist()]
        bad = pa.chunked_array([[value is False for value in values]], pa.bool_())
        _refuse(bad, column, "label_timestamp", wanted)
        known = pa.chunked_array([pa.array(values, INSTANT)])
    else:
        if pa.types.is_timestamp(column.type) and column.type.tz is None:
            column = pc.assume_timezone(column, "UTC")
        known = _cast(column, INSTANT, "label_timestamp", wanted)
    outside = pc.fill_null(pc.or_(pc.less(known, FIRST), pc.greater_equal(known, LAST)), False)
    _refuse(outside, column, "label_timestamp", "a year from 1970 to 2199")
    return known


def _instant(text: str) -> datetime | bool:
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    # In UTC already: Arrow does not always apply the offsets of a list in which they differ.
    return instant.astimezone(UTC) if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _cast(column: pa.ChunkedArray, wanted: pa.DataType, name: str, words: str) -> pa.ChunkedArray:
    try:
        return pc.cast(column, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidInput(f"column {name!r} ({column.type}): {error}; wanted {words}") from error


def _refuse(bad: Any, column: pa.ChunkedArray, name: str, words: str) -> None:
    place = pc.index(bad, True).as_py()
    if place >= 0:
        count = pc.sum(bad).as_py()
        more = f", and {count - 1} rows more" if count > 1 else ""
        raise InvalidInput(f"row {place + 1}: {name!r} is {column[place].as_py()!r}; wanted {words}{more}")
