"""States of a workload's entities at an instant, derived from a feature set: what the online store is filled with.

A recent view is an entity's last N events before the instant. A refreshed view is as of the last refresh at or before
it. Both are tables of the entity's key, `event_timestamp`, and the view's fields in order; sorted by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from millrace.features.events import INSTANT
from millrace.fields import View
from millrace.installed import Workload
from millrace.requests import SEPARATOR


def recent_states(
    connection: duckdb.DuckDBPyConnection,
    workload: Workload,
    view: View,
    events: Sequence[Path],
    as_of_us: int,
    length: int,
) -> pa.Table:
    """The last `length` events before `as_of_us` of every entity that has one, as lists, oldest first.

    `events` are files of a feature set's table `events`, which has what the view remembers under the fields' names.
    `event_timestamp` is that of the entity's newest event.
    """
    event_id = workload.schema.EVENT_ID
    key = workload.entity(view.entity).key
    own = key_sql(workload, view.entity)
    shown = f'"{key}"'
    ids, times, *remembered = view.fields
    entries = {ids: event_id, times: "epoch_us(event_timestamp)"} | {name: name for name in remembered}

    lists = ", ".join(
        f"list({entry} ORDER BY event_timestamp, {event_id}) AS {name}" for name, entry in entries.items()
    )
    query = f"""
        WITH last_n AS (
            SELECT {", ".join((f"{own} AS {shown}", event_id, "event_timestamp", *remembered))}
            FROM read_parquet($1) WHERE epoch_us(event_timestamp) < $2
            WINDOW newest AS (PARTITION BY {shown} ORDER BY event_timestamp DESC, {event_id} DESC)
            QUALIFY row_number() OVER newest <= $3
        )
        SELECT {shown}, max(event_timestamp) AS event_timestamp, {lists} FROM last_n GROUP BY {shown} ORDER BY {shown}
    """

    found = connection.sql(query, params=[[str(path) for path in events], as_of_us, length]).to_arrow_table()
    return found.cast(_schema(key, view))


def refreshed_states(workload: Workload, view: View, day: Path, refresh: datetime) -> pa.Table:
    """Every entity as of a refresh, by the view's table of that day, where a row holds until the entity's next.

    The file is sorted by key and time. `event_timestamp` is the refresh.
    """
    key = workload.entity(view.entity).key
    rows = pq.read_table(day, filters=[("event_timestamp", "<=", refresh)])
    keys = rows[key]
    newest = np.append(pc.not_equal(keys[:-1], keys[1:]), True)[: len(rows)]
    states = rows.filter(pa.array(newest))

    column = states.schema.get_field_index("event_timestamp")
    field = states.schema.field(column)
    return states.set_column(column, field, pa.repeat(pa.scalar(refresh, field.type), len(states)))


def key_sql(workload: Workload, name: str) -> str:
    """SQL that gives an entity's id in a table with the columns of its events."""
    entity = workload.entity(name)
    if entity.constant:
        return f"'{entity.constant}'"
    if entity.parts:
        parts = (key_sql(workload, part) for part in entity.parts)
        return f"concat_ws('{SEPARATOR}', {', '.join(parts)})"
    return f'"{entity.key}"'


def _schema(key: str, view: View) -> pa.Schema:
    return pa.schema({key: pa.string(), "event_timestamp": INSTANT, **view.fields})
