"""The events that the paths are compared on: a seeded sample of the time from `as_of` to the next refresh.

Where a workload has a recent view, there is one probe for each of its entities. Real ones are the first of their entity
after `as_of`, since later ones need a state that has seen the first. The others issue an earlier event again, a little
later; one is about entities unknown to all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import InvalidInput
from millrace.features.events import as_utc
from millrace.inputs import Requests
from millrace.installed import Workload
from millrace.instants import DAY_US, microseconds
from millrace.lake.manifest import Manifest
from millrace.requests import RequestFormat

ACTIVE_DAYS: Final = 30
"""An event is issued again when it is not older than this."""
UNSEEN: Final = "nobody has seen this one"
"""Every entity of the probe that no store knows."""


@dataclass(frozen=True, slots=True)
class Probes:
    """P events in the order of their ids, as a snapshot has them and as a client would ask for them."""

    events: pa.Table
    """Columns of the workload's schema; no label is known."""
    kinds: pa.ChunkedArray
    """[P] `real`, `reissued` or `unseen`."""
    requests: Requests
    keys: Mapping[str, list[str]]
    """Entity → [P] ids as the states have them."""

    def __len__(self) -> int:
        return len(self.events)

    def identities(self, workload: Workload) -> pa.Table:
        """Event id, time and kind, and the ids of entities by their keys."""
        named = {workload.entity(entity).key: pa.array(ids) for entity, ids in self.keys.items()}
        times = self.events["event_timestamp"]
        return pa.table({workload.schema.EVENT_ID: self.ids, "event_timestamp": times, "kind": self.kinds, **named})

    @property
    def ids(self) -> pa.ChunkedArray:
        return pa.chunked_array([pa.array(self.requests.event_id)])


def draw(
    connection: duckdb.DuckDBPyConnection,
    workload: Workload,
    snapshot: Manifest,
    as_of: datetime,
    size: int,
    seed: int,
) -> Probes:
    """At most `size` events, and the unseen one. Half are real where there are as many.

    All come before the next refresh, so that the store's refreshed views are the latest for them. Raises InvalidInput
    when nothing happened in the ACTIVE_DAYS before.
    """
    files = snapshot.table("events", as_of.date() - timedelta(days=ACTIVE_DAYS), as_of.date())
    as_of_us = microseconds(as_of)
    every = DAY_US // workload.features.REFRESHES_PER_DAY
    refresh = (as_of_us // every + 1) * every

    values = {
        "files": [str(path) for path in files],
        "seed": str(seed),
        "as_of": as_of_us,
        "refresh": refresh,
        "latest": refresh - 1,
        "size": size,
        "unseen": UNSEEN,
    }

    found = connection.sql(_query(workload), params=values).to_arrow_table() if files else []
    if len(found) < 2:
        raise InvalidInput(
            f"snapshot {snapshot.id} has no events in the {ACTIVE_DAYS} days before {as_of}. "
            "Take an as_of inside the data."
        )
    return _probes(workload, found)


def _probes(workload: Workload, found: pa.Table) -> Probes:
    schema = workload.schema.EVENTS
    events = found.select(schema.names)
    for name in (workload.schema.LABEL.column, "label_timestamp"):
        column = schema.get_field_index(name)
        events = events.set_column(column, schema.field(column), pa.nulls(len(events), schema.field(column).type))
    events = as_utc(events).cast(schema)

    asked = RequestFormat.of(workload)
    requests = asked.from_columns({name: _sent(events[name]) for name in asked.names}, now_us=0)
    keys = asked.keys(requests, pseudonym=lambda known: known)  # a snapshot has pseudonyms already
    return Probes(events, found["kind"], requests, keys)


def _sent(column: pa.ChunkedArray) -> list[Any]:
    """The values as a client writes them in JSON."""
    if pa.types.is_timestamp(column.type):
        return [value.isoformat() for value in column.to_pylist()]
    if pa.types.is_decimal(column.type):
        column = pc.cast(column, pa.float64())
    return column.to_pylist()


def _query(workload: Workload) -> str:
    """SQL for the columns of the schema and `kind`."""
    event_id = workload.schema.EVENT_ID
    columns = ", ".join(workload.schema.EVENTS.names)
    recent = [workload.entity(view.entity).key for view in workload.features.VIEWS if view.recent]
    apart = recent[0] if recent else event_id
    unseen = ", ".join(
        f"$unseen AS {entity.key}" for entity in workload.schema.ENTITIES if entity.key in workload.schema.EVENTS.names
    )
    return f"""
        WITH past AS (
            SELECT {columns}, epoch_us(event_timestamp) AS event_us, md5({apart}::VARCHAR || $seed) AS lot
            FROM read_parquet($files, union_by_name = true)
        ), real AS (
            SELECT *, 'real' AS kind FROM past WHERE event_us >= $as_of AND event_us < $refresh
            QUALIFY row_number() OVER (PARTITION BY {apart} ORDER BY event_us, {event_id}) = 1
            ORDER BY lot LIMIT $size // 2
        ), last AS (
            SELECT * FROM past WHERE event_us < $as_of AND {apart} NOT IN (SELECT {apart} FROM real)
            QUALIFY row_number() OVER (PARTITION BY {apart} ORDER BY event_us DESC, {event_id} DESC) = 1
            ORDER BY lot LIMIT $size - (SELECT count(*) FROM real)
        ), reissued AS (
            SELECT * REPLACE (
                (SELECT max({event_id}) FROM past) + row_number() OVER (ORDER BY lot) AS {event_id},
                make_timestamptz($as_of + ('0x' || lot[:12])::BIGINT % ($latest - $as_of + 1)) AS event_timestamp
            ), 'reissued' AS kind
            FROM last
        ), unseen AS (
            SELECT * REPLACE (
                (SELECT min({event_id}) FROM past) - 1 AS {event_id},
                make_timestamptz($as_of) AS event_timestamp,
                {unseen}
            ), 'unseen' AS kind
            FROM past ORDER BY past.event_us DESC, lot LIMIT 1
        )
        SELECT {columns}, kind FROM (
            SELECT * FROM real UNION ALL SELECT * FROM reissued UNION ALL SELECT * FROM unseen
        ) ORDER BY {event_id}
    """
