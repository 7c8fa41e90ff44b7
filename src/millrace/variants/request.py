"""`online` and `explain` of a variant: one request with its states, and the same without one of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from millrace.extended import Extended
from millrace.features.histories import Histories
from millrace.fields import Input
from millrace.inputs import Requests, States
from millrace.instants import NEVER_US
from millrace.variants.aggregates import remembered
from millrace.variants.columns import said_in_request
from millrace.variants.own import Own, Past
from millrace.workload import Explain, Online

Floats = NDArray[np.float32]


def online(own: Own) -> Online:
    return cast(
        Online,
        Extended(own.base.online, model_inputs=partial(_model_inputs, own), remembered=partial(_remembered, own)),
    )


def _model_inputs(
    own: Own, requests: Requests, states: States, *, history_length: int, sequence_length: int
) -> tuple[Floats, Floats | None]:
    made, history = own.base.online.model_inputs(
        requests, states, history_length=history_length, sequence_length=sequence_length
    )
    return np.concatenate([made, own_inputs(own, requests, states, history_length)], axis=1), history


def own_inputs(own: Own, requests: Requests, states: States, history_length: int) -> Floats:
    """B requests with the states of their entities → [B, F of its own]."""
    said = _told(own, requests)
    refreshed = {view.name: states.refreshed[view.name] for view in own.views}
    return own.inputs(requests.event_us, said, Past(_padded(own, requests, states, history_length), refreshed))


def _told(own: Own, requests: Requests) -> dict[str, NDArray[np.float64]]:
    return {name: said_in_request(field, requests.values[name]) for name, field in own.read.items()}


def _remembered(own: Own, requests: Requests, states: States) -> Sequence[tuple[Any, ...]]:
    told = _told(own, requests)
    columns = [told[name].tolist() for name in own.remembered]
    rows = own.base.online.remembered(requests, states)
    return [(*row, *more) for row, *more in zip(rows, *columns, strict=True)] if columns else rows


def _padded(own: Own, requests: Requests, states: States, length: int) -> Histories | None:
    """What came before each request in its recent view, side by side, padded on the left."""
    view = own.recent_view
    if view is None:
        return None
    count = len(requests)
    event_us = np.full((count, length), NEVER_US)
    values = {remembered(name): np.zeros((count, length)) for name in own.remembered}
    lengths = np.zeros(count, np.int64)
    first = len(view.fields) - 2 - len(own.remembered)

    rows = zip(states.recent[view.name], requests.event_id.tolist(), requests.event_us.tolist(), strict=True)
    for row, (state, event_id, now_us) in enumerate(rows):
        past = state.before(event_id, now_us)
        taken = min(len(past), length)
        if taken:
            event_us[row, -taken:] = past.event_us[-taken:]
            for place, name in enumerate(values, first):
                values[name][row, -taken:] = past.values[place][-taken:]
            lengths[row] = taken
    return Histories(event_us, values, lengths)


def explain(own: Own) -> Explain:
    base = own.base.explain
    groups = [one.name for one in own.parts]
    inputs = [
        *(Input(one.name, one.name, features=one.features) for one in own.columns),
        *(Input(one.name, one.entity, features=one.features) for one in own.aggregates),
    ]
    history = {**base.HISTORY, **{remembered(name): (name, 1) for name in own.remembered}}
    return cast(
        Explain,
        Extended(
            base,
            GROUPS=(*base.GROUPS, *groups),
            INPUTS=(*base.INPUTS, *inputs),
            HISTORY=history,
            variants=partial(_variants, own, groups),
        ),
    )


def _variants(
    own: Own, groups: Sequence[str], requests: Requests, states: States, *, history_length: int, sequence_length: int
) -> tuple[Floats, Floats | None]:
    """The base's, beside what is said; then the event itself, each time without one of what is its own."""
    lengths = {"history_length": history_length, "sequence_length": sequence_length}
    theirs, their_history = own.base.explain.variants(requests, states, **lengths)
    plain, history = own.base.online.model_inputs(requests, states, **lengths)
    mine = own_inputs(own, requests, states, history_length)

    without = np.repeat(mine, len(groups), axis=0)
    for row, name in enumerate(groups):
        places = own.places(name)
        without[row, places] = own.nothing_said[places]
    upper = np.concatenate([theirs, np.repeat(mine, len(theirs), axis=0)], axis=1)
    lower = np.concatenate([np.repeat(plain, len(groups), axis=0), without], axis=1)
    together = np.concatenate([upper, lower])
    if their_history is None or history is None:
        return together, None
    return together, np.concatenate([their_history, np.repeat(history, len(groups), axis=0)])
