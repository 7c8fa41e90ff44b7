"""Labels from a file: CSV or Parquet with the event's id, its label and, if it is known, label_timestamp.

Columns are called as in the workload's schema, or by its public names; what ingest reads is read here. Whole columns
are checked before anything is written, and a fault names its row. A row without a label says nothing and is left out.
A time without an offset is UTC.
"""

from __future__ import annotations

import csv
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

from millrace.errors import InvalidInput, NotFound, SchemaMismatch
from millrace.event_ids import event_key
from millrace.events.log import insert_labels, news, transaction
from millrace.events.prediction import FIRST_YEAR, LAST_YEAR
from millrace.installed import Workload
from millrace.installed import load as load_workload
from millrace.workload import Task

INSTANT: Final = pa.timestamp("us", tz="UTC")
CHUNK_ROWS: Final = 20_000
DELIMITERS: Final = ",;\t|"
FLAGS: Final = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
FIRST, LAST = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC), datetime(LAST_YEAR, 1, 1, tzinfo=UTC)


def load(uri: str, log: sa.Engine, workload: str, now: datetime | None = None) -> tuple[int, int]:
    """Every label of a file into the log; (labels read, those that said something new). Loading it again adds none.

    Raises NotFound, SchemaMismatch, InvalidInput naming the row, Unavailable.
    """
    now = now or datetime.now(UTC)
    table = checked(read(uri), workload)
    new = 0
    for start in range(0, table.num_rows, CHUNK_ROWS):
        rows = [row | {"workload": workload} for row in table.slice(start, CHUNK_ROWS).to_pylist()]
        undated = [row | {"label_timestamp": now} for row in rows if row["label_timestamp"] is None]
        with transaction(log) as connection:
            new += insert_labels(connection, [row for row in rows if row["label_timestamp"] is not None])
            new += insert_labels(connection, news(connection, undated))
    return table.num_rows, new


def read_csv(body: bytes, received: datetime, workload: str) -> list[dict[str, Any]]:
    """A CSV body → events for the stream."""
    from serving.prediction_log.core import label_event

    rows = checked(_csv(io.BytesIO(body)), workload).to_pylist()
    return [label_event(workload, row["event_id"], row["value"], row["label_timestamp"], received) for row in rows]


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


def checked(table: pa.Table, workload: str) -> pa.Table:
    """event_id int64, value float64, label_timestamp (null: not told); rows without a label are left out."""
    parts = load_workload(workload)
    id_name, label = parts.schema.EVENT_ID, parts.schema.LABEL.column
    table = table.rename_columns(_our_names(table.column_names, parts))
    if missing := [name for name in (id_name, label) if name not in table.column_names]:
        raise SchemaMismatch(f"the labels have no column {missing[0]!r}; they have {', '.join(table.column_names)}")

    value = (_quantities if parts.task is Task.REGRESSION else _flags)(table[label], label)
    ids = _ids(table[id_name], id_name)
    told = "label_timestamp" in table.column_names
    known = _instants(table["label_timestamp"]) if told else pa.nulls(table.num_rows, INSTANT)
    rows = pa.table({"event_id": ids, "label_timestamp": known, "value": value})
    return rows.filter(pc.is_valid(value))


def _ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Ids of events as ingest and the endpoint read them: a text that is no whole number stands for one."""
    wanted = "an id"
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        given = pc.utf8_trim_whitespace(column)
        _refuse(pc.or_kleene(pc.is_null(given), pc.equal(given, "")), column, name, wanted)
        return pa.chunked_array([pa.array([event_key(text) for text in given.to_pylist()], pa.int64())])

    ids = _cast(column, pa.int64(), name, "a whole number")
    _refuse(pc.is_null(ids), column, name, wanted)
    return ids


def _our_names(given: list[str], workload: Workload) -> list[str]:
    """The columns by our names: public names are known in any case, as at ingest."""
    schema = workload.schema
    ours = (schema.EVENT_ID, schema.LABEL.column, "label_timestamp")
    known = {name.casefold(): name for name in ours} | {
        alias.casefold(): name for alias, name in schema.ALIASES.items() if name in ours
    }
    return [known.get(name.strip().casefold(), name) for name in given]


def _csv(stream: Any) -> pa.Table:
    """Every column as text: what it means is checked here, with the row's number."""
    try:
        head = stream.readline().decode("utf-8-sig").strip()
        delimiter = max(DELIMITERS, key=head.count)
        names = next(csv.reader([head], delimiter=delimiter), [])
        types = {name: pa.string() for name in names}
        convert = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
        reading = pyarrow.csv.ReadOptions(column_names=names)
        parsing = pyarrow.csv.ParseOptions(delimiter=delimiter)
        return pyarrow.csv.read_csv(stream, reading, parsing, convert)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "Empty CSV" in str(error):
            return pa.table({name: pa.array([], pa.string()) for name in names})
        raise InvalidInput(f"the labels are no CSV: {error}") from error


def _flags(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """0, 1, true, false, or null → float64."""
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        column = _cast(column, pa.int64(), name, "0 or 1")
    text = pc.utf8_lower(pc.utf8_trim_whitespace(_cast(column, pa.string(), name, "0 or 1")))
    place = pc.index_in(text, pa.array(list(FLAGS)))
    _refuse(pc.and_(pc.is_null(place), pc.is_valid(column)), column, name, "0 or 1")
    return pc.take(pa.array(list(FLAGS.values())), place)


def _quantities(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Finite numbers, or null → float64."""
    values = _cast(column, pa.float64(), name, "a number")
    _refuse(pc.fill_null(pc.invert(pc.is_finite(values)), False), column, name, "a finite number")
    return values


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
