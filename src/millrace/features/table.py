"""Features of a plain table, from declarations: its columns, the calendar, and what each entity's past adds up to.

`millrace new` writes workloads that use it. One formula makes the features of whole days and those of a request, from
values and states; the states are counts and sums of labels in windows before a refresh, so a label counts from the
first refresh after it became known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.features.days import DayFeatures, DayStates, Events
from millrace.features.events import as_events
from millrace.features.windows import Windows
from millrace.fields import Entity, View
from millrace.inputs import Requests, States
from millrace.instants import DAY_US
from millrace.workload import Schema

CALENDAR: Final = ("hour", "weekday", "is_weekend")
OTHER: Final = "other"
"""Level of a category that is none of those listed."""
_HOUR_US: Final = 3_600_000_000

Values = Mapping[str, NDArray[Any]]
"""Column → [B]: float64 with NaN for what is missing, text with "" for it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a model of plain rows reads."""

    entities: tuple[str, ...]
    """Names of the entities whose past counts, in the order of their views."""
    numbers: tuple[str, ...] = ()
    """Columns whose value is a feature; another one says where it is missing."""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Text columns → levels that have a feature each; all other texts share one."""
    windows_days: tuple[int, ...] = (1, 7, 30)
    refreshes_per_day: int = 24
    label_scale: int = 1
    """A label times this is a whole number: states are integers. 1 for classes, 1,000 keeps thousandths."""

    @cached_property
    def views(self) -> tuple[View, ...]:
        """One refreshed view for each entity: in each window how many labels became known, and their sum."""
        return tuple(
            View(f"{entity}_state", entity, dict.fromkeys(self._fields(entity), pa.int64()), recent=False)
            for entity in self.entities
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features, in order."""
        numbers = [name for column in self.numbers for name in (f"{column}_value", f"{column}_missing")]
        levels = [f"{column}_is_{level}" for column, known in self.categories.items() for level in (*known, OTHER)]
        return (*numbers, *levels, *CALENDAR, *(name for entity in self.entities for name in self.past(entity)))

    def past(self, entity: str) -> list[str]:
        """The features of an entity's past."""
        return [f"{entity}_{what}_{days}d" for days in self.windows_days for what in ("count", "mean")]

    def _fields(self, entity: str) -> list[str]:
        return [f"{entity}_{what}_{days}d" for days in self.windows_days for what in ("labels", "label_sum")]

    def features(self, event_us: NDArray[np.int64], values: Values, states: Mapping[str, NDArray[np.int64]]) -> Any:
        """[B] times, values, and by view [B, fields] states → features[B, F] float32.

        A mean over no labels is 0, beside a count of 0.
        """
        columns: list[NDArray[Any]] = []

        for name in self.numbers:
            missing = np.isnan(values[name])
            columns += [np.where(missing, 0.0, values[name]), missing]

        for name, known in self.categories.items():
            text = np.asarray(values[name], dtype=object)
            levels = [text == level for level in known]
            columns += [*levels, ~np.logical_or.reduce(levels)] if levels else [np.ones(len(text), bool)]

        columns += _calendar(event_us)
        for view in self.views:
            state = states[view.name]
            for place in range(len(self.windows_days)):
                count, total = state[:, 2 * place], state[:, 2 * place + 1]
                columns += [count, total / np.maximum(count, 1) / self.label_scale]

        return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)

    # One request

    def model_inputs(self, requests: Requests, states: States) -> tuple[NDArray[np.float32], None]:
        """B requests and their states → features[B, F], and no history."""
        return self.features(requests.event_us, requests.values, states.refreshed), None

    # Whole days

    def events(self, rows: pa.Table, schema: Schema) -> Events:
        """Rows of the schema as columns to compute with."""
        numbers = {name: rows[name].cast(pa.float64()) for name in self.numbers}
        texts = {name: rows[name].cast(pa.string()).fill_null("") for name in self.categories}
        return as_events(rows, schema, numbers | texts)

    def daily(self, events: Events, schema: Schema, first_day: int, last_day: int) -> Iterator[DayFeatures]:
        """Every day from first_day to last_day (days since 1970), with or without events."""
        sums = self._sums(events, schema)
        lengths = [days * self.refreshes_per_day for days in self.windows_days]
        wanted = [(measure, length) for length in lengths for measure in ("labels", "label_sum")]
        event_us = events.column("event_us")
        by_day = np.argsort(event_us // DAY_US, kind="stable")
        ends = np.searchsorted((event_us // DAY_US)[by_day], np.arange(first_day, last_day + 2))

        for day, first, last in zip(range(first_day, last_day + 1), ends[:-1], ends[1:], strict=True):
            rows = by_day[first:last]
            states = {view.name: sums[view.entity].day(day, wanted) for view in self.views}
            yield DayFeatures(rows, self._features_at(events, rows, states), {}, states)

    def _features_at(
        self, events: Events, rows: NDArray[np.int64], states: Mapping[str, DayStates]
    ) -> NDArray[np.float32]:
        chosen = events.table.take(pa.array(rows))
        now_us = chosen["event_us"].to_numpy()
        values = {name: _numbers(chosen[name]) for name in self.numbers}
        values |= {name: np.asarray(chosen[name].to_pylist(), dtype=object) for name in self.categories}
        held = {view.name: states[view.name].at(chosen[view.entity].to_numpy(), now_us) for view in self.views}
        found: NDArray[np.float32] = self.features(now_us, values, held)
        return found

    def _sums(self, events: Events, schema: Schema) -> dict[str, Windows]:
        label = events.table[schema.LABEL.column]
        known = label.is_valid().to_numpy()
        values = np.rint(_numbers(label)[known] * self.label_scale).astype(np.int64)
        known_us = events.table["label_us"].filter(pa.array(known)).to_numpy()
        measures = {"labels": np.ones(len(values), np.int64), "label_sum": values}
        return {
            entity: Windows(events.column(entity)[known].astype(np.int64), known_us, measures, self.refreshes_per_day)
            for entity in self.entities
        }


def entities_of(keys: Sequence[str]) -> tuple[Entity, ...]:
    """An entity for each key column, and `everything`, of which there is one."""
    return (*(Entity(key, key) for key in keys), Entity("everything", "everything", constant="all"))


def _calendar(event_us: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Hour in [0, 24) and weekday (Monday is 0), UTC; whether it is a weekend."""
    weekday = (event_us // DAY_US + 3) % 7  # 1970-01-01 was a Thursday
    return [(event_us % DAY_US) / _HOUR_US, weekday, weekday >= 5]


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
    return values
