"""`batch` of a variant: the base's features of whole days, and those of its own columns beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.extended import Extended
from millrace.features.days import DayFeatures, Events
from millrace.features.histories import Histories, Pool
from millrace.requests import SEPARATOR
from millrace.variants.aggregates import Sums, remembered, view_name
from millrace.variants.columns import said_in_table
from millrace.variants.own import Own, Past
from millrace.workload import Batch, Schema

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

GATHER_ROWS: Final = 4096
"""Rows whose histories are held at a time."""

Floats = NDArray[np.float32]


def batch(own: Own, schema: Schema) -> Batch:
    base = own.base.batch
    more = [pa.field(remembered(name), pa.float64(), nullable=False) for name in own.remembered]
    return cast(
        Batch,
        Extended(
            base,
            COLUMNS=pa.schema([*base.COLUMNS, *(schema.EVENTS.field(field.name) for field in own.fields), *more]),
            RELEVANT=_relevant(own),
            SHARDS=(),
            events=partial(_events, own),
            daily=partial(_daily, own),
        ),
    )


def _relevant(own: Own) -> str:
    """The base's events, and those of the entities that own states are of."""
    conditions = [f"({own.base.batch.RELEVANT})"]
    for entity in dict.fromkeys([*own.states, *([own.base.recent.entity] if own.base.recent else [])]):
        key = _key(own, entity)
        conditions.append("true" if key.startswith("'") else f"{key} IN (SELECT {key} FROM probes)")
    return " OR ".join(conditions)


def _key(own: Own, name: str) -> str:
    entity = own.base.entity(name)
    if entity.constant:
        return f"'{entity.constant}'"
    if entity.parts:
        return f"concat_ws('{SEPARATOR}', {', '.join(_key(own, part) for part in entity.parts)})"
    return f'"{entity.key}"'


def _events(own: Own, rows: pa.Table) -> Events:
    """The base's columns to compute with, and what is said in those of one's own, as numbers."""
    events = own.base.batch.events(rows)
    table = events.table
    for name, field in own.read.items():
        given = name in rows.column_names  # else a feature set, which keeps what the recent view remembers
        said = said_in_table(field, rows[name]) if given else rows[remembered(name)].to_numpy()
        table = table.append_column(_said(name), pa.array(said))
    return Events(table, events.ids)


def _said(name: str) -> str:
    return f"__said_{name}"


def _daily(
    own: Own,
    connection: DuckDBPyConnection,
    events: Events,
    history_length: int,
    first_day: int,
    last_day: int,
) -> Iterator[DayFeatures]:
    said = {name: events.column(_said(name)) for name in own.read}
    event_us = events.column("event_us")
    order = np.lexsort((events.column(own.base.schema.EVENT_ID), event_us))
    sums = {
        entity: Sums(of, events.column(entity), event_us, order, said, own.base.features.REFRESHES_PER_DAY, own.scales)
        for entity, of in own.states.items()
    }
    pool = _Recent.of(own, events, order, said)

    days = own.base.batch.daily(connection, events, history_length, first_day, last_day)
    for day, new in zip(range(first_day, last_day + 1), days, strict=True):
        rows = new.position
        states = {view_name(entity): one.day(day) for entity, one in sums.items()}
        held = {view.name: states[view.name].at(events.column(view.entity)[rows], event_us[rows]) for view in own.views}
        told = {name: values[rows] for name, values in said.items()}
        mine = _at(own, event_us[rows], told, pool, rows, held, history_length)
        more = {remembered(name): told[name] for name in own.remembered}
        together = np.concatenate([new.features, mine], axis=1)
        yield DayFeatures(rows, together, {**new.remembered, **more}, {**new.states, **states})


@dataclass(frozen=True, slots=True)
class _Recent:
    """Every event among those of its entity."""

    pool: Pool
    place: NDArray[np.int64]  # [T] in the pool
    start: NDArray[np.int64]  # [T] first place of the same entity

    @classmethod
    def of(cls, own: Own, events: Events, order: NDArray[np.int64], said: Mapping[str, NDArray[np.float64]]) -> Any:
        view = own.base.recent
        if view is None:
            return None
        entity = events.column(view.entity)
        side_by_side = order[np.argsort(entity[order], kind="stable")]
        place = np.empty(len(order), np.int64)
        place[side_by_side] = np.arange(len(order))
        ordered = entity[side_by_side]
        first = np.searchsorted(ordered, ordered)
        values = {remembered(name): said[name][side_by_side] for name in own.remembered}
        return cls(Pool(events.column("event_us")[side_by_side], values), place, first[place])

    def before(self, rows: NDArray[np.int64], length: int) -> Histories:
        return self.pool.before(self.place[rows], self.start[rows], length)


def _at(
    own: Own,
    now_us: NDArray[np.int64],
    said: Mapping[str, NDArray[np.float64]],
    recent: _Recent | None,
    rows: NDArray[np.int64],
    held: Mapping[str, NDArray[np.int64]],
    length: int,
) -> Floats:
    """Own features of rows[B] of the events, a few at a time."""
    found = np.empty((len(rows), len(own.names)), np.float32)
    for begin in range(0, len(rows), GATHER_ROWS):
        part = slice(begin, begin + GATHER_ROWS)
        past = None if recent is None else recent.before(rows[part], length)
        states = {name: state[part] for name, state in held.items()}
        told = {name: values[part] for name, values in said.items()}
        found[part] = own.inputs(now_us[part], told, Past(past, states))
    return found
