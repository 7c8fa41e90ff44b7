"""An answer of the online store as states: what Feast gives, field by field, becomes what the workload's code reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.errors import SchemaMismatch
from millrace.fields import View
from millrace.inputs import RecentEvents, States, recent
from millrace.instants import instant_of

Response = Mapping[str, Sequence[Any]]
"""What Feast's `get_online_features(...).to_dict()` gives: equally long lists, in which what is unknown is None."""


def states_of(response: Response, views: Sequence[View]) -> States:
    """The states in an answer of the store; raises SchemaMismatch for a field that it lacks."""
    return States(
        {view.name: recent_of(response, view) for view in views if view.recent},
        {view.name: refreshed_of(response, view) for view in views if not view.recent},
    )


def unknown_states(views: Sequence[View], rows: int) -> States:
    """States of entities that nobody has seen, which stand in for those of a store that does not answer."""
    return States(
        {view.name: [empty(view)] * rows for view in views if view.recent},
        {view.name: np.zeros((rows, len(view.fields)), np.int64) for view in views if not view.recent},
    )


def recent_of(response: Response, view: View) -> list[RecentEvents]:
    """The B states of a recent view; an unknown entity has the empty one."""
    columns = [_column(response, name) for name in view.fields]
    dtypes = _dtypes(view)
    return [
        empty(view)
        if row[0] is None
        else recent(*(np.asarray(values, dtype) for values, dtype in zip(row, dtypes, strict=True)))
        for row in zip(*columns, strict=True)
    ]


def refreshed_of(response: Response, view: View) -> NDArray[np.int64]:
    """The B states of a refreshed view: [B, fields]; an unknown entity is a row of zeros."""
    columns = [_column(response, name) for name in view.fields]
    return np.array([[value or 0 for value in column] for column in columns], np.int64).T


def columns_of(states: Mapping[str, RecentEvents], view: View, key: str) -> dict[str, list[Any]]:
    """Columns of what Feast's push source takes: one row per entity, whose key is `key`, dated by its newest event."""
    times = [instant_of(state.event_us[-1]) for state in states.values()]
    columns: dict[str, list[Any]] = {key: list(states), "event_timestamp": times}
    for place, name in enumerate(view.fields):
        columns[name] = [state.arrays()[place] for state in states.values()]
    return columns


@cache
def empty(view: View) -> RecentEvents:
    """The state of an entity that nobody has seen."""
    return recent(*(np.empty(0, dtype) for dtype in _dtypes(view)))


@cache
def _dtypes(view: View) -> tuple[Any, ...]:
    return tuple(field.value_type.to_pandas_dtype() for field in view.fields.values())


def _column(response: Response, name: str) -> Sequence[Any]:
    try:
        return response[name]
    except KeyError:
        raise SchemaMismatch(
            f"the online answer has no column {name!r}, only {sorted(response)}. "
            "Ask for the workload's feature service; when it lacks the column, materialise again."
        ) from None
