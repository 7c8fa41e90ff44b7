"""The prediction log as an Arrow table: a workload's predictions, each with the label that was known at an instant.

Monitoring, comparison and retraining read through this; the tables are `millrace.events.log`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from millrace.errors import InvalidInput
from millrace.events.log import LABELS, NO_TRIAL, PREDICTIONS, Instant, microseconds, reading
from millrace.events.prediction import told_of
from millrace.installed import load
from millrace.workload import Task

CHUNK_ROWS: Final = 50_000
"""Rows fetched at a time: bounds what is held as Python objects."""

INSTANT: Final = pa.timestamp("us", tz="UTC")
IDENTITY: Final = pa.schema([("prediction_id", pa.string()), ("request_id", pa.string()), ("scored_at", INSTANT)])
ANSWER: Final = pa.schema(
    [
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("score", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("decision", pa.string()),
        ("degraded", pa.bool_()),
        ("stage", pa.string()),
        ("arm", pa.string()),
        ("latency_ms", pa.float64()),
        ("features", pa.list_(pa.float32())),
        ("feature_service", pa.string()),
        ("traceparent", pa.string()),
        ("dry_run", pa.bool_()),
    ]
)
INTERVAL: Final = ("low", "high")
DOCUMENTS: Final[tuple[str, ...]] = ("keys", "fields")
"""Columns of the table that hold several of a workload's, as JSON."""


@cache
def schema_of(workload: str) -> pa.Schema:
    """Columns of a workload's predictions: its own names for id, keys and fields; what its task lacks is not there."""
    told = told_of(workload)
    absent = ("decision",) if told.task is Task.REGRESSION else INTERVAL
    event = [pa.field(told.event_id, pa.int64()), pa.field("event_timestamp", INSTANT)]
    keys = [pa.field(name, pa.string()) for name in told.keys]
    fields = [pa.field(name, kept.type) for name, kept in told.fields.items()]
    return pa.schema([*IDENTITY, *event, *keys, *fields, *(field for field in ANSWER if field.name not in absent)])


@cache
def label_schema(workload: str) -> pa.Schema:
    """Appended when labels are asked for: the label under its own name, and its instant; null where none was known."""
    schema = load(workload).schema
    return pa.schema([pa.field(schema.LABEL.column, schema.EVENTS.field(schema.LABEL.column).type), LABEL_TIME])


LABEL_TIME: Final = pa.field("label_timestamp", INSTANT)


def read_predictions(
    log: sa.Engine,
    workload: str,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    model_version: str | Collection[str] | None = None,
    with_labels_known_at: datetime | None = None,
    columns: Sequence[str] | None = None,
    by: str = "scored_at",
) -> pa.Table:
    """A workload's predictions with since ≤ `by` < until (`scored_at` or `event_timestamp`), in the order of that time.

    Trials are left out.
    `columns` leaves out what is not needed (`features` are most of the bytes). With `with_labels_known_at` the label's
    column and `label_timestamp` follow: the newest label of the event known then. Raises Unavailable.
    """
    if by not in ("scored_at", "event_timestamp"):
        raise InvalidInput(f"by is {by!r}; wanted 'scored_at' or 'event_timestamp'")
    schema = schema_of(workload)
    names = list(schema.names if columns is None else columns)
    if unknown := set(names) - set(schema.names):
        raise InvalidInput(
            f"predictions have no column {sorted(unknown)[0]!r}; wanted some of {', '.join(schema.names)}"
        )

    own = PREDICTIONS.c.workload == workload
    limits = [own, NO_TRIAL, *within(PREDICTIONS.c[by], since, until), *_versions(model_version)]
    order = (PREDICTIONS.c[by], PREDICTIONS.c.prediction_id)
    if with_labels_known_at is None:
        return _read(log, workload, names, PREDICTIONS, limits, order)

    event_id = load(workload).schema.EVENT_ID
    rows = _read(log, workload, list(dict.fromkeys([*names, event_id])), PREDICTIONS, limits, order)
    labels = read_labels(log, workload, with_labels_known_at, sa.select(PREDICTIONS.c.event_id).where(*limits))
    return _with_labels(rows, labels, event_id).select([*names, *label_schema(workload).names])


def find_predictions(
    log: sa.Engine,
    workload: str,
    *,
    event_id: int | None = None,
    prediction_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """The newest predictions that match, at most `limit`, with the label that is known today; raises Unavailable."""
    wanted = {"workload": workload, "event_id": event_id, "prediction_id": prediction_id}
    limits = [PREDICTIONS.c[name] == value for name, value in wanted.items() if value is not None]
    limits += within(PREDICTIONS.c.scored_at, since, until)
    newest = sa.select(PREDICTIONS).where(*limits).order_by(PREDICTIONS.c.scored_at.desc()).limit(limit).subquery()

    rows = _read(log, workload, schema_of(workload).names, newest, [], (newest.c.scored_at.desc(),))
    labels = read_labels(log, workload, None, sa.select(newest.c.event_id))
    found: list[dict[str, Any]] = _with_labels(rows, labels, load(workload).schema.EVENT_ID).to_pylist()
    return found


def _with_labels(rows: pa.Table, labels: pa.Table, event_id: str) -> pa.Table:
    """`rows` with the other columns of `labels` (one row an event, by `event_id`), null where there is none.

    By position and not in SQL: SQLite's planner joins the two by a loop over both.
    """
    ids = labels[event_id].to_numpy()
    order = np.argsort(ids, kind="stable")
    wanted = pc.fill_null(rows[event_id], 0).to_numpy()
    place = np.searchsorted(ids, wanted, sorter=order)
    known = place < len(ids)
    known[known] = ids[order[place[known]]] == wanted[known]
    known &= pc.is_valid(rows[event_id]).to_numpy()
    taken = np.zeros(len(wanted), np.int64)
    taken[known] = order[place[known]]

    index = pa.array(taken, mask=~known)
    for field in labels.schema:
        if field.name != event_id:
            rows = rows.append_column(field, labels[field.name].take(index))
    return rows


def read_labels(
    log: sa.Engine, workload: str, known_at: datetime | None = None, of: sa.Select[Any] | None = None
) -> pa.Table:
    """The newest label of every event of a workload, as known at `known_at`, in the order of the event's id.

    `of` selects the ids that are asked for. Columns: the event's id and the label by the workload's names, and
    `label_timestamp`.
    """
    newest = sa.func.row_number().over(partition_by=LABELS.c.event_id, order_by=LABELS.c.label_timestamp.desc())
    query = sa.select(LABELS, newest.label("age")).where(LABELS.c.workload == workload)
    if known_at is not None:
        query = query.where(*within(LABELS.c.label_timestamp, None, known_at + datetime.resolution))
    if of is not None:
        query = query.where(LABELS.c.event_id.in_(of))

    ranked = query.subquery()
    columns = [plain(log, ranked.c[name]) for name in ("event_id", "value", "label_timestamp")]
    chosen = sa.select(*columns).where(ranked.c.age == 1).order_by(ranked.c.event_id)

    stored = pa.schema([("event_id", pa.int64()), ("value", pa.float64()), LABEL_TIME])
    named = pa.schema([pa.field(load(workload).schema.EVENT_ID, pa.int64()), *label_schema(workload)])
    return _fetch(log, chosen, stored).rename_columns(named.names).cast(named)


def within(column: sa.Column[Any], since: datetime | None, until: datetime | None) -> list[Any]:
    """Conditions for since ≤ column < until; raises InvalidInput for an instant without a zone."""
    ends = [(since, column.__ge__), (until, column.__lt__)]
    for instant, _ in ends:
        if instant is not None:
            microseconds(instant)  # refuses one without a zone, which the driver would take for local time
    return [compare(instant) for instant, compare in ends if instant is not None]


def _versions(wanted: str | Collection[str] | None) -> list[Any]:
    if wanted is None:
        return []
    return [PREDICTIONS.c.model_version.in_([wanted] if isinstance(wanted, str) else [str(one) for one in wanted])]


def plain(log: sa.Engine, column: Any) -> Any:
    """Instants as integer microseconds: no datetime is made per cell on the way to Arrow."""
    if not isinstance(column.type, Instant):
        return column
    if log.dialect.name == "postgresql":
        return sa.cast(sa.extract("epoch", column) * 1_000_000, sa.BigInteger).label(column.name)
    return sa.type_coerce(column, sa.BigInteger).label(column.name)


def _read(
    log: sa.Engine, workload: str, names: Sequence[str], source: Any, limits: Sequence[Any], order: Sequence[Any]
) -> pa.Table:
    """Columns of a workload by its own names, of the rows of `source` within `limits`."""
    schema = schema_of(workload)
    told = told_of(workload)
    stored = dict.fromkeys(told.keys, "keys") | dict.fromkeys(told.fields, "fields")
    stored[told.event_id] = "event_id"

    read = list(dict.fromkeys(stored.get(name, name) for name in names))
    query = sa.select(*(plain(log, source.c[name]) for name in read)).where(*limits).order_by(*order)
    rows = _fetch(log, query, pa.schema([_stored_field(schema, name) for name in read]))

    documents = {name: _parsed(rows[name].to_pylist()) for name in DOCUMENTS if name in read}
    wanted = pa.schema([schema.field(name) for name in names])
    columns = [
        _out_of(documents[stored[name]], wanted.field(name))
        if stored.get(name) in documents
        else rows[stored.get(name, name)]
        for name in names
    ]
    return pa.table(columns, wanted)


def _stored_field(schema: pa.Schema, name: str) -> pa.Field:
    """The type of a column of the table."""
    if name in DOCUMENTS:
        return pa.field(name, pa.string())
    return pa.field(name, pa.int64()) if name == "event_id" else schema.field(name)


def _out_of(documents: Sequence[dict[str, Any] | None], field: pa.Field) -> pa.ChunkedArray:
    values = [None if document is None else document.get(field.name) for document in documents]
    return pa.chunked_array([pa.array(values, field.type)])


def _fetch(log: sa.Engine, query: sa.Select[Any], schema: pa.Schema) -> pa.Table:
    with reading(log) as connection:
        result = connection.execution_options(stream_results=True, yield_per=CHUNK_ROWS).execute(query)
        batches = [_batch(rows, schema) for rows in result.partitions(CHUNK_ROWS)]
    return pa.Table.from_batches(batches, schema)


def _batch(rows: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [_array(list(values), field) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: list[Any], field: pa.Field) -> pa.Array:
    return pa.array(_parsed(values) if pa.types.is_list(field.type) else values, field.type)


def _parsed(texts: Sequence[str | None]) -> list[Any]:
    """JSON texts, in one parse for the whole column."""
    parsed: list[Any] = orjson.loads("[" + ",".join("null" if text is None else text for text in texts) + "]")
    return parsed
