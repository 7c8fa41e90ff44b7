"""Readings so far, counted anew at each refresh."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from machines import features as f
from machines import schema
from machines.online import inputs
from millrace.features.days import DayFeatures, DayStates, Events
from millrace.features.events import as_events
from millrace.instants import DAY_US

COLUMNS: Final = pa.schema([column for column in schema.EVENTS if column.name not in f.FEATURE_NAMES])
SMALL_STEPS: Final[frozenset[str]] = frozenset()
RELEVANT: Final = "machine IN (SELECT machine FROM probes)"
SHARDS: Final = ()


def events(rows: pa.Table) -> Events:
    loads = pc.fill_null(rows["load"], float("nan"))
    return as_events(rows, schema, {"heat": rows["heat"], "load": loads})


def daily(connection: Any, events: Events, history_length: int, first_day: int, last_day: int) -> Iterator[DayFeatures]:
    event_us = events.column("event_us")
    for day in range(first_day, last_day + 1):
        states = {view.name: counted(day, events.column(view.entity), event_us) for view in f.VIEWS}
        rows = np.flatnonzero(event_us // DAY_US == day)
        known = {view.name: states[view.name].at(events.column(view.entity)[rows], event_us[rows]) for view in f.VIEWS}
        features = inputs(events.column("heat")[rows], events.column("load")[rows], known)
        yield DayFeatures(rows, features, {}, states)


def counted(day: int, entity: Any, event_us: Any) -> DayStates:
    """How many readings each entity had before each refresh of a day."""
    keys, counts = [], []
    before = np.zeros(max(entity, default=-1) + 1, np.int64)
    for refresh in range(f.REFRESHES_PER_DAY):
        instant = day * DAY_US + refresh * DAY_US // f.REFRESHES_PER_DAY
        now = np.bincount(entity[event_us < instant], minlength=len(before))
        rows = np.flatnonzero(now if refresh == 0 else now != before)
        keys.append(rows * f.REFRESHES_PER_DAY + refresh)
        counts.append(now[rows])
        before = now
    key = np.concatenate(keys)
    order = np.argsort(key)
    return DayStates(day, f.REFRESHES_PER_DAY, key[order], np.concatenate(counts)[order][None, :])
