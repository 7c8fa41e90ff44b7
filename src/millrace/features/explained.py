"""The `explain` part of a workload whose features are a `Table`'s: its columns, the calendar, each entity's past.

A group is made unremarkable by leaving it out: a missing value, no known text, noon of a Wednesday, a key that nobody
has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.features.table import CALENDAR, OTHER, Table
from millrace.fields import Input
from millrace.inputs import Requests, States
from millrace.instants import DAY_US

TIME: Final = "time"
_WEDNESDAY_NOON: Final = int(6.5 * DAY_US)  # of the first week of 1970, which began on a Thursday


def groups_of(table: Table) -> tuple[str, ...]:
    """What a reason may name."""
    return (*table.numbers, *table.categories, TIME, *table.entities)


def inputs_of(table: Table) -> tuple[Input, ...]:
    """What a whole explanation divides the score among."""
    numbers = [Input(name, name, features=(f"{name}_value", f"{name}_missing")) for name in table.numbers]
    texts = [
        Input(name, name, features=tuple(f"{name}_is_{level}" for level in (*known, OTHER)))
        for name, known in table.categories.items()
    ]
    pasts = [
        Input(entity, entity, features=tuple(name for name in table.names if name in table.past(entity)))
        for entity in table.entities
    ]
    return (*numbers, *texts, Input(TIME, "event_timestamp", features=CALENDAR), *pasts)


def variants_of(table: Table) -> Callable[..., tuple[NDArray[np.float32], None]]:
    """The function `variants` of the part."""

    def variants(
        requests: Requests,
        states: States,
        *,
        history_length: int,  # noqa: ARG001
        sequence_length: int,  # noqa: ARG001
    ) -> tuple[NDArray[np.float32], None]:
        """One request → `features[K, F]`, in each of which one group is nothing remarkable."""
        rows = [_without(table, group, requests, states) for group in groups_of(table)]
        return np.concatenate(rows), None

    return variants


def _without(table: Table, group: str, requests: Requests, states: States) -> NDArray[np.float32]:
    view = next((view for view in table.views if view.entity == group), None)
    if view is not None:
        nobody = {view.name: np.zeros_like(states.refreshed[view.name])}
        return table.model_inputs(requests, replace(states, refreshed={**states.refreshed, **nobody}))[0]
    if group == TIME:
        return table.model_inputs(replace(requests, event_us=np.full(len(requests), _WEDNESDAY_NOON)), states)[0]
    nothing = np.full(len(requests), np.nan) if group in table.numbers else np.full(len(requests), "", object)
    return table.model_inputs(replace(requests, values={**requests.values, group: nothing}), states)[0]
