"""What happens to a checked request between its lookup and its answer: states in, model inputs and answers out; no I/O.

Rows of one request are taken in their order: an entity's second row sees the first one in its recent events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from millrace.appended.records import SLACK, Entry
from millrace.errors import Unavailable
from millrace.events.prediction import MAX_TEXT, STAGES
from millrace.fields import View
from millrace.inputs import RecentEvents, Requests, States
from millrace.installed import Workload
from millrace.lookup import unknown_states
from millrace.workload import Task
from serving.tensors import MAX_ROWS
from serving.transformer.refreshed import Keys

MAX_REASONS: Final = 3

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


def apart(prepared: Prepared, parts: Sequence[Part], sizes: Sequence[int]) -> list[tuple[Prepared, list[Part]]]:
    """What came of several requests that were scored together, request by request; `sizes` are their rows."""
    found = []
    start = 0
    for size in sizes:
        end = start + size
        theirs = [mine for part in parts if (mine := _rows_of(part, start, end)) is not None]
        found.append((_prepared_of(prepared, start, end), theirs))
        start = end
    return found


def _prepared_of(prepared: Prepared, start: int, end: int) -> Prepared:
    features, history = prepared.inputs
    inputs = features[start:end], None if history is None else history[start:end]
    return Prepared(inputs, prepared.states.part(start, end), [], prepared.degraded, prepared.unseen[start:end])


def _rows_of(part: Part, start: int, end: int) -> Part | None:
    """The part's rows of one request, counted from its first; None where it has none of them."""
    places = [place for place, row in enumerate(part.rows) if start <= row < end]
    if not places:
        return None

    scored = part.scored
    mine = dataclasses.replace(
        scored,
        outputs={name: values[places] for name, values in scored.outputs.items()},
        stages=[scored.stages[place] for place in places] if scored.stages else (),
    )
    return dataclasses.replace(part, rows=[part.rows[place] - start for place in places], scored=mine)


def require_fit(workload: Workload, scored: Scored, history_length: int) -> None:
    """Raise Unavailable when the model gives other figures than are answered, or wants features of another length."""
    missing = sorted(workload.exchange.ANSWER.keys() - scored.outputs.keys())
    if missing or (workload.task is Task.RANKING and scored.decision_threshold is None):
        what = missing[0] if missing else "decision_threshold"
        raise Unavailable(f"the predictor's answer is not a score of {workload.name!r}: it has no {what}")
    if workload.recent is not None and scored.history_length != history_length:
        raise Unavailable(
            f"MILLRACE_HISTORY_LENGTH of the transformer is {history_length}; model version {scored.model_version} "
            f"was trained with {scored.history_length}. Start the transformer with that."
        )
    _require_sayable(workload, scored)


def _require_sayable(workload: Workload, scored: Scored) -> None:
    """Raise Unavailable for what no prediction event may say (`millrace.events.prediction`)."""
    version, outputs = scored.model_version, scored.outputs
    if not 0 < len(version) <= MAX_TEXT or not version.isprintable():
        raise Unavailable(f"the predictor's answer names version {version[:60]!r}; wanted a short text")
    if not set(scored.stages) <= set(STAGES) or len(scored.stages) not in (0, len(scored.scores)):
        raise Unavailable(f"the predictor names {len(scored.stages)} stages; wanted {', '.join(STAGES)} for every row")
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise Unavailable(f"model version {version} answers what is no finite number. Roll it back.")
    if workload.task is Task.REGRESSION:
        sound = (outputs["low"] <= outputs["high"]).all()
    else:
        sound = ((outputs["score"] >= 0) & (outputs["score"] <= 1)).all()
    if not sound:
        raise Unavailable(f"model version {version} answers what is no score of {workload.name!r}. Roll it back.")


def require_rows(scored: Scored, rows: int) -> None:
    """Raise Unavailable when the predictor gave another number of scores than it got rows."""
    for name, values in scored.outputs.items():
        if values.shape != (rows,):
            raise Unavailable(f"the predictor gave {name} of shape {list(values.shape)} for {rows} rows")


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


def reasons(workload: Workload, score: float, variant_scores: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The groups that matter most, strongest first: `{"input": group, "effect": fall in score without it}`.

    What lowers the score is no reason for a decision, but is one for a quantity.
    """
    effects = (score - variant_scores.astype(float)).tolist()
    sizes = [abs(effect) for effect in effects] if workload.task is Task.REGRESSION else effects
    strongest = sorted(zip(sizes, workload.explain.GROUPS, effects, strict=True), reverse=True)
    return [
        {"input": group, "effect": round(effect, 4)}
        for size, group, effect in strongest[:MAX_REASONS]
        if size >= workload.explain.MIN_EFFECT
    ]


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
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"the predictor's answer is not a score: {error!r}") from error
