"""What happens to a checked request between its lookup and its answer: states in, model inputs and answers out; no I/O.

Rows of one request are taken in their order: an entity's second row sees the first one in its recent events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from millrace.appended.records import SLACK, Entry
from millrace.errors import Unavailable
from millrace.fields import View
from millrace.inputs import RecentEvents, Requests, States
from millrace.installed import Workload
from millrace.lookup import unknown_states
from millrace.reasons import reasons
from serving.reads import UNTOLD, Reads
from serving.tensors import MAX_ROWS
from serving.transformer.refreshed import Keys

Inputs = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""features[B, F], and history[B, N, C] where the model reads one."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Model inputs of B rows, the states they were made from, and what the recent view must remember afterwards."""

    inputs: Inputs
    states: States
    entries: list[Entry]
    degraded: bool
    unseen: Sequence[Sequence[str]] = ()
    """[B] entities of each row that no view has a state of; empty where the store gave no answer."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What the predictor said."""

    outputs: Mapping[str, NDArray[np.float32]]
    """[B] each: `score`, and of a quantity `low` and `high`."""
    model_version: str
    decision_threshold: float | None = None
    """None where the task makes no decision."""
    history_length: int | None = None
    """N of the features that the model was trained on; None where no view is recent."""
    stages: Sequence[str] = ()
    """`full` or `cheap` (the cascade's first model) for each row, where the predictor tells."""
    reads: Reads = UNTOLD
    """Which features, from which generation of state."""

    @property
    def scores(self) -> NDArray[np.float32]:
        return self.outputs["score"]


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a request that one model scored; `scored` holds them in the order of `rows`."""

    rows: Sequence[int]
    scored: Scored
    arm: str
    model_name: str


def prepare(
    workload: Workload,
    requests: Requests,
    keys: Keys,
    found: States | None,
    history_length: int,
) -> Prepared:
    """Requests with the store's answer for their rows → model inputs; without an answer from defaults, and degraded."""
    states = unknown_states(workload.features.VIEWS, len(requests)) if found is None else found
    entries: list[Entry] = []
    view = workload.recent
    if view is not None:
        remembered = workload.online.remembered(requests, states)
        recent, entries = _newest(requests, keys[view.entity], states.recent[view.name], remembered, history_length)
        states = States({view.name: recent}, states.refreshed, states.unseen)
    inputs = workload.online.model_inputs(
        requests, states, history_length=history_length, sequence_length=history_length
    )
    unseen = () if found is None else unseen_entities(workload, states, len(requests))
    return Prepared(inputs, states, entries, degraded=found is None, unseen=unseen)


def unseen_entities(workload: Workload, states: States, rows: int) -> list[list[str]]:
    """[B] names of each row's entities that none of their views knows; what came earlier in the request is known."""
    unseen: list[list[str]] = [[] for _ in range(rows)]
    for entity, views in _watched(workload).items():
        for row in range(rows):
            if all(_is_unseen(states, view, row) for view in views):
                unseen[row].append(entity)
    return unseen


@cache
def _watched(workload: Workload) -> dict[str, list[View]]:
    """Entity → its views; without one that there is only one of."""
    views: dict[str, list[View]] = {}
    for view in workload.features.VIEWS:
        if not workload.entity(view.entity).constant:
            views.setdefault(view.entity, []).append(view)
    return views


def _is_unseen(states: States, view: View, row: int) -> bool:
    if view.recent:
        return not len(states.recent[view.name][row])
    return view.name in states.unseen and bool(states.unseen[view.name][row])


def _newest(
    requests: Requests,
    keys: Sequence[str],
    stored: Sequence[RecentEvents],
    remembered: Sequence[tuple[Any, ...]],
    history_length: int,
) -> tuple[list[RecentEvents], list[Entry]]:
    """[B] recent events with what came earlier in the request; entries of those that are not in them already."""
    ids, event_us = requests.event_id.tolist(), requests.event_us.tolist()
    after: dict[str, RecentEvents] = {}
    states, entries = [], []
    for row, key in enumerate(keys):
        state = after.get(key, stored[row])
        states.append(state)
        after[key] = state.append(ids[row], event_us[row], remembered[row], history_length + SLACK)
        if after[key] is not state:
            entries.append(Entry(ids[row], key, event_us[row], remembered[row]))
    return states, entries


def explained_rows(scored: Scored) -> list[int]:
    """Places that get reasons: those at or above the threshold; all where the task makes no decision."""
    threshold = scored.decision_threshold
    if threshold is None:
        return list(range(len(scored.scores)))
    return [place for place, score in enumerate(scored.scores.tolist()) if score >= threshold]


def decision(score: float, scored: Scored) -> Literal["review", "approve"] | None:
    """`review` at or above the threshold; None where the task makes no decision."""
    if scored.decision_threshold is None:
        return None
    return "review" if score >= scored.decision_threshold else "approve"


def joined(blocks: Sequence[Inputs]) -> Inputs:
    """Inputs of several rows or requests, one after the other."""
    histories = [history for _, history in blocks if history is not None]
    features = np.concatenate([features for features, _ in blocks])
    return features, np.concatenate(histories) if histories else None


@dataclass(frozen=True, slots=True)
class Choice:
    """A request's inputs, made from one or more generations of state: the model takes those that it reads."""

    inputs: Sequence[Inputs]
    generations: Sequence[str] = ()
    """Of each; empty where the inputs are the only ones, for whatever model answers."""

    def rows(self, rows: Sequence[int]) -> Choice:
        """The same of some rows."""
        if len(rows) == len(self.inputs[0][0]):
            return self
        return Choice([chosen(inputs, rows) for inputs in self.inputs], self.generations)


def chosen(inputs: Inputs, rows: Sequence[int]) -> Inputs:
    """The inputs of these rows."""
    features, history = inputs
    return features[list(rows)], None if history is None else history[list(rows)]


def explain_inputs(
    workload: Workload, requests: Requests, prepared: Prepared, rows: Sequence[int], history_length: int
) -> Inputs:
    """The variants of the rows that `reasons` compares, one block of K rows for each."""
    return joined(
        [
            workload.explain.variants(
                requests.part(row, row + 1),
                prepared.states.part(row, row + 1),
                history_length=history_length,
                sequence_length=history_length,
            )
            for row in rows
        ]
    )


def explained_at_once(workload: Workload) -> int:
    """Rows whose variants fit into one request to the predictor."""
    return MAX_ROWS // len(workload.explain.GROUPS)


def explain(
    workload: Workload, scores: Sequence[float], rows: Sequence[int], variant_scores: NDArray[np.float32]
) -> dict[int, list[dict[str, Any]]]:
    """Row → its reasons, from the rows' scores and those of `explain_inputs`."""
    blocks = variant_scores.reshape(len(rows), -1)
    return {row: reasons(workload, float(score), block) for row, score, block in zip(rows, scores, blocks, strict=True)}


def scored_from(document: Mapping[str, Any]) -> Scored:
    """The predictor's V2 answer; raises Unavailable when it is not one."""
    try:
        outputs = {output["name"]: output["data"] for output in document["outputs"]}
        stages = tuple(str(stage) for stage in outputs.pop("stage", ()))
        figures = {name: np.array(data, np.float32) for name, data in outputs.items()}
        parameters = document.get("parameters", {})
        threshold, length = parameters.get("decision_threshold"), parameters.get("history_length")
        return Scored(
            {"score": figures.pop("score"), **figures},
            str(document["model_version"]),
            None if threshold is None else float(threshold),
            None if length is None else int(length),
            stages,
            Reads.found_in(parameters),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"the predictor's answer is not a score: {error!r}") from error
