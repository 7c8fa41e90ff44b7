"""Why an event got its score: Shapley values of the workload's inputs against reference events; no I/O.

An input that a coalition lacks is taken from the background: fields and features from rows of the model's reference
window, recent events as of an entity that nobody knows. Whatever follows from several inputs is computed again, so that
every row the model sees is one that could be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.fields import Input
from millrace.inputs import RecentEvents, Requests, States
from millrace.installed import Workload
from millrace.instants import instant_of
from millrace.requests import TIME, RequestFormat
from serving.transformer.core import Inputs, joined

BACKGROUND_ROWS: Final = 32

Score = Callable[[NDArray[np.float32], NDArray[np.float32] | None], NDArray[np.float32]]
"""features[B, F], and history[B, L, C] where the model reads one → scores[B]."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is explained: one checked request with the states it is scored with."""

    requests: Requests
    states: States
    """Of recent views what came strictly before the event, the newest N of it."""

    @property
    def event_id(self) -> int:
        return int(self.requests.event_id[0])


@dataclass(frozen=True, slots=True)
class Background:
    """K reference events, as `features[K, F]`."""

    features: NDArray[np.float32]

    @classmethod
    def of(
        cls, columns: Mapping[str, NDArray[np.float32]], names: tuple[str, ...], rows: int = BACKGROUND_ROWS
    ) -> Background:
        """Rows spread evenly over the reference window in the order of its scores: calm and suspicious ones alike."""
        order = np.argsort(columns["score"], kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(int)]
        return cls(np.stack([columns[name][chosen] for name in names], axis=1).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Lengths:
    """Events of a recent view that features see, and that the model reads itself."""

    history_length: int
    sequence_length: int


def event_of(requests: Requests, states: States, row: int, length: int) -> Event:
    """One of B requests, with its recent events as the model sees them."""
    one, theirs = requests.part(row, row + 1), states.part(row, row + 1)
    event_id, event_us = int(one.event_id[0]), int(one.event_us[0])
    recent = {
        name: [state.before(event_id, event_us).newest(length) for state in of] for name, of in theirs.recent.items()
    }
    return Event(one, States(recent, theirs.refreshed))


def value_function(
    workload: Workload, event: Event, background: Background, score: Score, lengths: Lengths
) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """coalitions[M, P] (1: the event's own input) → mean score over the background, [M]."""

    def value(coalitions: NDArray[Any]) -> NDArray[np.float64]:
        blocks = [
            coalition_inputs(workload, event, background, coalition.astype(bool), lengths)
            for coalition in np.atleast_2d(coalitions)
        ]
        scores = score(*joined(blocks))
        means: NDArray[np.float64] = scores.astype(np.float64).reshape(len(blocks), -1).mean(axis=1)
        return means

    return value


def coalition_inputs(
    workload: Workload, event: Event, background: Background, own: NDArray[np.bool_], lengths: Lengths
) -> Inputs:
    """The K background rows with the event's own inputs put in where `own[P]` says so."""
    rows = len(background.features)
    others = [part for part, is_own in zip(workload.explain.INPUTS, own, strict=True) if not is_own]
    names = workload.features.FEATURE_NAMES
    features, history = workload.online.model_inputs(
        _with_fields(workload, event.requests.repeated(rows), others, background),
        _without_views(event.states.repeated(rows), others),
        history_length=lengths.history_length,
        sequence_length=lengths.sequence_length,
    )
    for part in others:
        columns = [names.index(name) for name in part.features]
        features[:, columns] = background.features[:, columns]
    return features, history


def _with_fields(workload: Workload, requests: Requests, others: list[Input], background: Background) -> Requests:
    """Requests with the fields of these inputs as they were in the background."""
    kinds = {field.name: field.kind for field in workload.schema.FIELDS}
    values = dict(requests.values)
    for part in others:
        for field, feature in part.fields.items():
            reference = background.features[:, workload.features.FEATURE_NAMES.index(feature)]
            reference = np.rint(reference * 100.0) if kinds[field] == "money" else reference
            values[field] = reference.astype(values[field].dtype)
    return replace(requests, values=values)


def _without_views(states: States, others: list[Input]) -> States:
    """States without the recent events that these inputs are."""
    recent = dict(states.recent)
    for part in others:
        for view in part.views:
            recent[view] = [state.newest(0) for state in recent[view]]
    return States(recent, states.refreshed)


def attributions(
    workload: Workload, form: RequestFormat, values: NDArray[np.float64], event: Event
) -> list[dict[str, Any]]:
    """The inputs with what each adds to the score, strongest first, and what it was."""
    rows = [
        {"input": part.name, "value": _shown(workload, form, part, event), "effect": float(effect)}
        for part, effect in zip(workload.explain.INPUTS, values, strict=True)
    ]
    return sorted(rows, key=lambda row: -abs(row["effect"]))


def history_of(workload: Workload, event: Event) -> list[dict[str, Any]]:
    """What the model saw in the recent view, oldest first, as it was before the event."""
    view = workload.recent
    if view is None:
        return []
    state: RecentEvents = event.states.recent[view.name][0]
    shown = [workload.explain.HISTORY[name] for name in list(view.fields)[2:]]
    rows = []
    for event_id, event_us, *values in zip(*(column.tolist() for column in state.arrays()), strict=True):
        row = {workload.schema.EVENT_ID: event_id, TIME: _iso(event_us)}
        rows.append(row | {name: value / by for (name, by), value in zip(shown, values, strict=True)})
    return rows


def _shown(workload: Workload, form: RequestFormat, part: Input, event: Event) -> Any:
    """What an input was, in the client's words."""
    if part.shows == TIME:
        return _iso(int(event.requests.event_us[0]))
    if part.shows in event.states.recent:
        return f"{len(event.states.recent[part.shows][0])} {workload.event[1]} before this one"
    keys = form.keys(event.requests, pseudonym=str)  # the client's own ids
    ids = {name: keys[entity.name][0] for entity in form.entities for name in (entity.name, entity.key)}
    return ids[part.shows] if part.shows in ids else form.shown(event.requests, 0)[part.shows]


def _iso(event_us: int) -> str:
    return instant_of(event_us).isoformat().replace("+00:00", "Z")
