"""What a workload is described in: fields of its events, entities, views of their states, its label, inputs.

Values alone; which of them a workload gives, and where, is `millrace.workload`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import pyarrow as pa


class Kind(StrEnum):
    """What the values of a field are, and so how they are read and kept."""

    ID = "id"
    """What no other event has, as a whole number of 64 bits: itself, or a hash of a text (`millrace.event_ids`)."""
    INSTANT = "instant"
    """A time between 1970 and 2200, UTC."""
    KEY = "key"
    """An entity's id, or a level of a category, as text: 596, "596" and 596.0 are the same."""
    MONEY = "money"
    """A sum of money with two decimals: decimal(12, 2)."""
    NUMBER = "number"
    """float64; neither NaN nor infinite."""
    WHOLE = "whole"
    """int64."""
    CLASS = "class"
    """0 or 1, int8."""
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column of the events; a row whose value cannot be read or lies outside the range goes to quarantine."""

    name: str
    kind: Kind
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    empty: bool = False
    """A row may lack it."""
    optional: bool = False
    """A source may lack it, and then every row does."""
    sql: str = ""
    """Makes it where a source lacks it: DuckDB's SQL over the other fields that are not made."""


@dataclass(frozen=True, slots=True)
class Entity:
    """Somebody or something that events are about, and that has a past."""

    name: str
    key: str
    """Column of the events that holds its id."""
    pseudonymised: bool = False
    """Replace the id by a keyed hash at ingest and at the endpoint; the raw id is never stored or logged."""
    parts: tuple[str, ...] = ()
    """Entities whose ids, joined by `|`, are this one's id; empty: the id is a column of its own."""
    constant: str = ""
    """The id of an entity that there is only one of; no event has a column for it."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """States of an entity in the online store: one Feast feature view."""

    name: str
    entity: str
    fields: Mapping[str, pa.DataType]
    """Field → type, in order: int64 or floats. No other view of the workload has a field of the same name, since an
    answer of the store names fields alone. A recent view has lists: ids of events, `event_us`, then what else is
    remembered, under the names of columns that a feature set's `events` have."""
    recent: bool
    """True: the entity's last N events, appended as events are scored. False: integers as of each refresh."""
    same_day: bool = True
    """Of a refreshed view: a state may depend on events of its own day. False: on those of earlier days alone, so
    that the states of a day are known, and kept, before its events come."""


@dataclass(frozen=True, slots=True)
class Label:
    """What becomes known of an event, and when."""

    column: str
    unit: str
    """The unit of a quantity, such as `minutes`; empty for classes."""
    delay_days: int
    """From an event until its label is known, in whole days; 0: the same day, by `label_timestamp`."""


@dataclass(frozen=True, slots=True)
class Input:
    """What an explanation holds responsible: a part of a request that can be exchanged for another event's."""

    name: str
    shows: str
    """What it was: a field of the request, `event_timestamp`, an entity for its id, or a recent view for its length."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of the request → features that say the same of a reference event; what follows from them is made again."""
    features: tuple[str, ...] = ()
    """Features that are taken from the reference event as they are."""
    views: tuple[str, ...] = ()
    """Recent views that are taken as of an entity that nobody has seen."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the prediction log keeps of one field of a request; null where the request had none."""

    type: pa.DataType
    """float64, int64 or string."""
    least: float | None = None

    def takes(self, value: float | str) -> bool:
        if pa.types.is_string(self.type) or isinstance(value, str):
            return pa.types.is_string(self.type) and isinstance(value, str)
        return self.least is None or value >= self.least

    def __str__(self) -> str:
        if pa.types.is_string(self.type):
            return "text"
        return "a number" if self.least is None else f"a number of at least {self.least:g}"


_ARROW: Final[Mapping[Kind, pa.DataType]] = {
    Kind.ID: pa.int64(),
    Kind.INSTANT: pa.timestamp("us", tz="UTC"),
    Kind.KEY: pa.string(),
    Kind.MONEY: pa.decimal128(12, 2),
    Kind.NUMBER: pa.float64(),
    Kind.WHOLE: pa.int64(),
    Kind.CLASS: pa.int8(),
    Kind.TEXT: pa.string(),
}


def events_of(fields: tuple[Field, ...]) -> pa.Schema:
    """The columns of a snapshot for Arrow."""
    return pa.schema([pa.field(field.name, _ARROW[field.kind], nullable=field.empty) for field in fields])
