"""All that a document adds to its base, worked out once: columns, aggregates, views, and the features of rows.

One function makes the features of whole days and of single requests, from what is said, from the recent events of
entities, and from states as of a refresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.errors import ConfigError
from millrace.features.histories import Histories
from millrace.fields import Field, Kind, View
from millrace.packaged import Workload
from millrace.variants import aggregates as kept
from millrace.variants.aggregates import OwnAggregate, last_of, remembered, view_of
from millrace.variants.columns import MISSING, OwnColumn, Said
from millrace.variants.document import Document

HOURS: Final = (1, 90 * 24)
"""Shortest and longest window of an aggregate."""
NUMERIC: Final = (Kind.NUMBER, Kind.MONEY, Kind.WHOLE)
"""Kinds of the base's fields that can be aggregated."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of the entities of B rows."""

    recent: Histories | None
    """Of the recent view's entity, with what was said under `remembered` names; None where no view is recent."""
    refreshed: Mapping[str, Integers]
    """View of `Own.views` → [B, fields]; an unknown entity is a row of zeros."""


@dataclass(frozen=True)
class Own:
    """What a document adds to a base."""

    base: Workload
    columns: tuple[OwnColumn, ...]
    aggregates: tuple[OwnAggregate, ...]

    @property
    def parts(self) -> list[OwnColumn | OwnAggregate]:
        """Columns, then aggregates."""
        return [*self.columns, *self.aggregates]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features, in order."""
        return tuple(name for one in self.parts for name in one.features)

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """What the schema gains."""
        return tuple(column.field for column in self.columns)

    @cached_property
    def read(self) -> dict[str, Field]:
        """Column that features or states are made of → its field; some of them are the base's."""
        known = {field.name: field for field in (*self.base.schema.FIELDS, *self.fields)}
        names = dict.fromkeys([*(one.name for one in self.columns), *(one.of for one in self.aggregates if one.of)])
        return {name: known[name] for name in names}

    @cached_property
    def remembered(self) -> tuple[str, ...]:
        """Columns that the recent view keeps of each event."""
        entity = self._recent_entity
        of = [one.of for one in self.aggregates if one.entity == entity and one.of]
        return tuple(dict.fromkeys([*of, *(one.name for one in self.columns if entity and one.entity == entity)]))

    @cached_property
    def recent_view(self) -> View | None:
        """The base's recent view with what it keeps besides."""
        view = self.base.recent
        if view is None or not self.remembered:
            return view
        more = dict.fromkeys(map(remembered, self.remembered), pa.list_(pa.float64()))
        return View(view.name, view.entity, {**view.fields, **more}, recent=True, same_day=view.same_day)

    @cached_property
    def states(self) -> dict[str, tuple[OwnAggregate, ...]]:
        """Entity without a recent view → what its states tell, the last that was said of it included."""
        told: dict[str, list[OwnAggregate]] = {}
        for one in (*self.aggregates, *self._last):
            if one.entity != self._recent_entity:
                told.setdefault(one.entity, []).append(one)
        return {entity: tuple(of) for entity, of in told.items()}

    @cached_property
    def views(self) -> tuple[View, ...]:
        """Refreshed views of its own."""
        return tuple(view_of(entity, of) for entity, of in self.states.items())

    @cached_property
    def scales(self) -> dict[str, int]:
        """Columns whose values are whole numbers → 1, which states keep them times."""
        return {name: 1 for name, field in self.read.items() if field.kind not in NUMERIC}

    def inputs(self, now_us: Integers, said: Said, past: Past) -> NDArray[np.float32]:
        """[B] instants, what is said, and what lies before → features[B, F of its own]."""
        held = {view.name: dict(zip(view.fields, past.refreshed[view.name].T, strict=True)) for view in self.views}
        parts = []

        for column in self.columns:
            values = said[column.name]
            if column.entity:
                values = self._with_last(column, values, past, held)
            parts.append(column.inputs(values, now_us))
        for one in self.aggregates:
            if one.entity == self._recent_entity and past.recent is not None:
                parts.append(one.recent(now_us, past.recent))
            else:
                parts.append(one.refreshed(held[kept.view_name(one.entity)]))
        return kept.stack(parts, len(now_us))

    def places(self, name: str) -> list[int]:
        """Places of a column's or an aggregate's features among `names`."""
        one = next(one for one in self.parts if one.name == name)
        return [self.names.index(feature) for feature in one.features]

    @cached_property
    def nothing_said(self) -> NDArray[np.float32]:
        """[F of its own] the features of a row of which nothing is said, and whose entities have no past."""
        return np.array([name.endswith(f"_{MISSING}") for name in self.names], np.float32)

    @property
    def _recent_entity(self) -> str:
        return "" if self.base.recent is None else self.base.recent.entity

    @cached_property
    def _last(self) -> tuple[OwnAggregate, ...]:
        """Of columns that belong to an entity: the last that was said of it."""
        hours = kept.ALWAYS_DAYS * 24
        return tuple(OwnAggregate(one.name, one.name, one.entity, "last", hours) for one in self.columns if one.entity)

    def _with_last(
        self, column: OwnColumn, said: NDArray[np.float64], past: Past, held: Mapping[str, Mapping[str, Integers]]
    ) -> NDArray[np.float64]:
        if column.entity == self._recent_entity and past.recent is not None:
            return last_of(column.name, said, past.recent)
        last = next(one for one in self._last if one.of == column.name)
        state = held[kept.view_name(column.entity)]
        known = state[kept.field_of(last, "count")] > 0
        value = state[kept.field_of(last, "last")] / self.scales.get(column.name, kept.SCALE)
        found: NDArray[np.float64] = np.where(np.isnan(said), np.where(known, value, np.nan), said)
        return found


def own_of(document: Document, base: Workload) -> Own:
    """What a document adds to its base; raises ConfigError for what does not fit it."""
    where = f"workload {document.name!r}"
    entities = [entity.name for entity in base.schema.ENTITIES]
    for name, column in document.features.items():
        if column.entity and column.entity not in entities:
            raise ConfigError(f"{where}: features.{name}.entity is {column.entity!r}; wanted one of {entities}")
    columns = tuple(OwnColumn(name, one.kind, one.entity) for name, one in document.features.items())
    aggregates = tuple(
        OwnAggregate(name, one.of, one.over, one.stat, hours_of(one.window))
        for name, one in document.aggregates.items()
    )

    own = Own(base, columns, aggregates)
    _require_aggregates(own, entities, where)
    _require_new_names(own, document, where)
    return own


def hours_of(window: str) -> int:
    """`1h` or `90d` → hours."""
    return int(window[:-1]) * (24 if window.endswith("d") else 1)


def _require_aggregates(own: Own, entities: Sequence[str], where: str) -> None:
    base = own.base
    numeric = [one.name for one in base.schema.FIELDS if one.kind in NUMERIC and one.name in base.exchange.ASKED]
    numeric += [one.name for one in own.columns if one.kind == "numeric" and not one.entity]
    for one in own.aggregates:
        key = f"{where}: aggregates.{one.name}"
        if one.of and one.of not in numeric:
            raise ConfigError(f"{key}.of is {one.of!r}; wanted a numeric column of requests: {', '.join(numeric)}")
        if one.entity not in entities:
            raise ConfigError(f"{key}.over is {one.entity!r}; wanted one of {entities}")
        if not HOURS[0] <= one.hours <= HOURS[1]:
            raise ConfigError(f"{key}.window is {one.hours} h; wanted 1h to 90d")

        per_day = base.features.REFRESHES_PER_DAY
        if one.entity in own.states and one.hours * per_day % 24:
            raise ConfigError(
                f"{key}.window is {one.hours} h; states of {one.entity!r} are renewed {per_day} times a day. "
                f"Wanted a multiple of {24 / per_day:g} h."
            )


def _require_new_names(own: Own, document: Document, where: str) -> None:
    """Raise ConfigError where a name is another's: of fields, features, entities, views or columns of the source."""
    base = own.base
    fields = {field.name for field in base.schema.FIELDS} | set(base.batch.COLUMNS.names)
    taken = fields | set(base.features.FEATURE_NAMES) | {entity.name for entity in base.schema.ENTITIES}
    taken |= {name for view in base.features.VIEWS for name in (view.name, *view.fields)} | RESERVED
    given = [*document.features, *document.aggregates, *own.names]
    for name in given:
        if name in taken or (name in document.features and name in document.aggregates):
            raise ConfigError(f"{where}: the name {name!r} is taken already; wanted another one")

    known = {name.upper() for name in (*fields, *base.schema.ALIASES)}
    for name, column in document.features.items():
        if column.column.upper() in known:
            raise ConfigError(
                f"{where}: features.{name}.column is {column.column!r}, which the workload reads already; "
                "wanted a column that nothing else reads"
            )


RESERVED: Final = frozenset({"score", "low", "high", "position", "event_us", "label_us", "event_id", "label", "split"})
"""Names that tables of every workload have."""
