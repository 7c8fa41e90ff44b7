"""The prediction log as an Arrow table: a window of predictions, each with the label that was known at an instant.

Monitoring, comparison and retraining read through this; the tables are `millrace.events.log`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from millrace.errors import InvalidInput
from millrace.events.log import LABELS, PREDICTIONS, Instant, microseconds, reading

CHUNK_ROWS: Final = 50_000
"""Rows fetched at a time: bounds what is held as Python objects."""

INSTANT: Final = pa.timestamp("us", tz="UTC")
SCHEMA: Final = pa.schema(
    [
        ("event_id", pa.string()),
        ("request_id", pa.string()),
        ("scored_at", INSTANT),
        ("transaction_id", pa.int64()),
        ("event_timestamp", INSTANT),
        ("customer_id", pa.string()),
        ("terminal_id", pa.string()),
        ("amount", pa.float64()),
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("score", pa.float64()),
        ("decision", pa.string()),
        ("degraded", pa.bool_()),
        ("stage", pa.string()),
        ("arm", pa.string()),
        ("latency_ms", pa.float64()),
        ("features", pa.list_(pa.float32())),
        ("feature_service", pa.string()),
        ("traceparent", pa.string()),
    ]
)
LABEL_SCHEMA: Final = pa.schema([("is_fraud", pa.int8()), ("label_timestamp", INSTANT)])
"""Appended when labels are asked for; null where none was known."""


def read_predictions(
    log: sa.Engine,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    model_version: str | Collection[str] | None = None,
    with_labels_known_at: datetime | None = None,
    columns: Sequence[str] | None = None,
    by: str = "scored_at",
) -> pa.Table:
    """Predictions with since ≤ `by` < until (`scored_at` or `event_timestamp`), in the order of that time.

    `columns` leaves out what is not needed (`features` are most of the bytes). With `with_labels_known_at` the columns
    `is_fraud` and `label_timestamp` follow: the newest label of the transaction known then. Raises Unavailable.
    """
    if by not in ("scored_at", "event_timestamp"):
        raise InvalidInput(f"by is {by!r}; wanted 'scored_at' or 'event_timestamp'")
    names = list(SCHEMA.names if columns is None else columns)
    if unknown := set(names) - set(SCHEMA.names):
        raise InvalidInput(
            f"predictions have no column {sorted(unknown)[0]!r}; wanted some of {', '.join(SCHEMA.names)}"
        )
    limits = [*within(PREDICTIONS.c[by], since, until), *_versions(model_version)]
    asked = names if with_labels_known_at is None else list(dict.fromkeys([*names, "transaction_id"]))
    chosen = [plain(log, PREDICTIONS.c[name]) for name in asked]
    query = sa.select(*chosen).where(*limits).order_by(PREDICTIONS.c[by], PREDICTIONS.c.event_id)
    rows = _fetch(log, query, pa.schema([SCHEMA.field(name) for name in asked]))
    if with_labels_known_at is None:
        return rows
    labels = read_labels(log, with_labels_known_at, sa.select(PREDICTIONS.c.transaction_id).where(*limits))
    return with_labels(rows, labels).select([*names, *LABEL_SCHEMA.names])


def find_predictions(
    log: sa.Engine,
    *,
    limit: int,
    transaction_id: int | None = None,
    event_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[dict[str, Any]]:
    """The newest predictions that match, at most `limit`, with the label that is known today; raises Unavailable."""
    wanted = {"transaction_id": transaction_id, "event_id": event_id}
    limits = [PREDICTIONS.c[name] == value for name, value in wanted.items() if value is not None]
    limits += within(PREDICTIONS.c.scored_at, since, until)
    newest = sa.select(PREDICTIONS).where(*limits).order_by(PREDICTIONS.c.scored_at.desc()).limit(limit).subquery()
    chosen = [plain(log, newest.c[name]) for name in SCHEMA.names]
    rows = _fetch(log, sa.select(*chosen).order_by(newest.c.scored_at.desc()), SCHEMA)
    found: list[dict[str, Any]] = with_labels(
        rows, read_labels(log, None, sa.select(newest.c.transaction_id))
    ).to_pylist()
    return found


def with_labels(rows: pa.Table, labels: pa.Table) -> pa.Table:
    """`rows` with is_fraud and label_timestamp of `labels` (one a transaction), null where there is none.

    By position and not in SQL: SQLite's planner joins the two by a loop over both.
    """
    ids = labels["transaction_id"].to_numpy()  # ascending
    wanted = pc.fill_null(rows["transaction_id"], 0).to_numpy()
    place = np.searchsorted(ids, wanted)
    known = place < len(ids)
    known[known] = ids[place[known]] == wanted[known]
    taken = pa.array(place, mask=~(known & pc.is_valid(rows["transaction_id"]).to_numpy()))
    for field in LABEL_SCHEMA:
        rows = rows.append_column(field, labels[field.name].take(taken))
    return rows


def read_labels(log: sa.Engine, known_at: datetime | None = None, of: sa.Select[Any] | None = None) -> pa.Table:
    """The newest label of every transaction, as known at `known_at`, in the order of transaction_id.

    `of` selects the transactions that are asked for.
    """
    newest = sa.func.row_number().over(partition_by=LABELS.c.transaction_id, order_by=LABELS.c.label_timestamp.desc())
    query = sa.select(LABELS, newest.label("age"))
    if known_at is not None:
        query = query.where(*within(LABELS.c.label_timestamp, None, known_at + datetime.resolution))
    if of is not None:
        query = query.where(LABELS.c.transaction_id.in_(of))
    ranked = query.subquery()
    columns = [plain(log, ranked.c[name]) for name in ("transaction_id", *LABEL_SCHEMA.names)]
    chosen = sa.select(*columns).where(ranked.c.age == 1).order_by(ranked.c.transaction_id)
    return _fetch(log, chosen, pa.schema([SCHEMA.field("transaction_id"), *LABEL_SCHEMA]))


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
    if pa.types.is_list(field.type):
        # One parse for the whole column.
        values = orjson.loads("[" + ",".join("null" if value is None else value for value in values) + "]")
    if field.name == "is_fraud":
        values = [None if value is None else int(value) for value in values]
    return pa.array(values, field.type)
