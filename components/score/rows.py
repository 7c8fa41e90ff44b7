"""Score the rows of a table, each with the states of its entities as of its own time; whole days at a time.

In: rows of the workload's schema, what was known before them (`known.py`), a model. Out: a table of answers for each
day. The features are those of training (`Batch.daily`), and what an answer says is what the endpoint says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.score.known import Known
from components.score.recent import Recent
from components.score.why import Why
from millrace.features.days import DayFeatures, DayStates, Events
from millrace.features.events import engine
from millrace.installed import Workload
from millrace.instants import DAY_US
from millrace.registry.model_artifact import CHUNK_ROWS, Floats, ModelArtifact

REASONS: Final = pa.list_(pa.struct({"input": pa.string(), "effect": pa.float64()}))
GAP_DAYS: Final = 14
"""Days without a row that are not computed: a run of days ends there, and the next begins after it."""


@dataclass(frozen=True, slots=True)
class Answers:
    """One day's rows."""

    table: pa.Table
    """Event id, event_timestamp, the model's figures under the names of the endpoint's answer, decision of a ranking,
    reasons, the entities that nothing was known of, model_version; in the order of time and id."""
    place: NDArray[np.int64]
    """[B] which of the rows to score each is, counted from 0."""
    known: int
    """Rows of which at least one entity had a state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A model, and how it is asked."""

    artifact: ModelArtifact
    version: str
    reasons: str = "flagged"
    """Which rows get reasons: `flagged` for review, `all`, `none`."""
    threads: int = 2
    memory_limit_gb: float = 3.0

    @property
    def workload(self) -> Workload:
        return self.artifact.workload

    @property
    def history_length(self) -> int:
        """N: events of a recent view that the features see; without such a view it does not matter."""
        return self.artifact.spec.history_length or 1

    def score(self, rows: pa.Table, before: Known) -> Iterator[Answers]:
        """Answers for the rows of the schema, a day at a time, oldest first; rows are in the order of time and id."""
        table = pa.concat_tables([before.events, rows])
        event_us = table["event_timestamp"].cast(pa.int64()).to_numpy()
        remembered = {
            name: np.concatenate([values, np.zeros(len(rows), values.dtype)])
            for name, values in before.remembered.items()
        }
        fresh = np.arange(len(table)) >= len(before.events)
        with engine(self.threads, self.memory_limit_gb) as connection:
            for first, last in _runs(event_us[fresh] // DAY_US):
                kept = np.flatnonzero(event_us < (last + 1) * DAY_US)
                until = table.take(pa.array(kept))
                events = self.workload.batch.events(until)
                recent = Recent.of(self.workload, events, {name: values[kept] for name, values in remembered.items()})
                run = _Run(self, until, events, recent)
                place = np.cumsum(fresh)[kept] - 1
                for day in self.workload.batch.daily(connection, events, self.history_length, first, last):
                    for name in remembered:
                        remembered[name][kept[day.position]] = day.remembered[name]
                    recent.remember(day)
                    wanted = np.flatnonzero(fresh[kept[day.position]])
                    if len(wanted):
                        yield run.answers(day, wanted, place)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of days: everything until its end, and what is asked of it."""

    scorer: Scorer
    rows: pa.Table
    events: Events
    recent: Recent

    def answers(self, day: DayFeatures, wanted: NDArray[np.int64], place: NDArray[np.int64]) -> Answers:
        """Those of the day's rows at wanted[B]; place[T] says which row to score each event is."""
        workload, spec = self.scorer.workload, self.scorer.artifact.spec
        event_id = workload.schema.EVENT_ID
        position = day.position[wanted]
        outputs = self._predict(day.features[wanted], position)
        flagged = np.ones(len(position), bool)
        if spec.decides:
            flagged = outputs["score"].astype(np.float64) >= self.scorer.artifact.decision_threshold

        unseen = _unseen(workload, self.events, self.recent, day.states, position)
        asked = self.rows.select([event_id, "event_timestamp"]).take(pa.array(position))
        columns: dict[str, Any] = {name: asked[name] for name in asked.column_names}
        columns |= {shown: pa.array(outputs[name]) for name, shown in workload.exchange.ANSWER.items()}
        if spec.decides:
            columns["decision"] = pa.array(["approve", "review"]).take(pa.array(flagged.astype(np.int8)))
        columns["reasons"] = self._reasons(day.states, position, outputs["score"], flagged)
        columns["unseen"] = _named(unseen, len(position))
        columns["model_version"] = pa.repeat(self.scorer.version, len(position))

        nobody = np.logical_and.reduce(list(unseen.values())) if unseen else np.zeros(len(position), bool)
        table = pa.table(columns)
        by_time = [("event_timestamp", "ascending"), (event_id, "ascending")]
        order = pc.sort_indices(table.select(["event_timestamp", event_id]), sort_keys=by_time)
        return Answers(table.take(order), place[position][order.to_numpy()], int((~nobody).sum()))

    def _predict(self, features: Floats, position: NDArray[np.int64]) -> Mapping[str, Floats]:
        """Figures of the rows, a chunk of the graph at a time, so that histories stay small."""
        artifact = self.scorer.artifact
        spec = artifact.spec
        parts = []
        for start in range(0, len(position), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            history = self.recent.tensor(position[chunk], spec.sequence_length) if spec.history_channels else None
            parts.append(artifact.predict(np.ascontiguousarray(features[chunk]), history))
        return {name: np.concatenate([part[name] for part in parts]) for name in spec.outputs}

    def _reasons(
        self,
        states: Mapping[str, DayStates],
        position: NDArray[np.int64],
        scores: Floats,
        flagged: NDArray[np.bool_],
    ) -> pa.Array:
        """[B] lists; empty where no reason is asked for."""
        everything, nothing = np.ones_like(flagged), np.zeros_like(flagged)
        chosen = np.flatnonzero({"all": everything, "none": nothing}.get(self.scorer.reasons, flagged))
        found: list[list[dict[str, Any]]] = [[] for _ in range(len(position))]
        if len(chosen):
            why = Why(self.scorer.artifact, self.rows, self.events, self.recent, states)
            for row, named in zip(chosen.tolist(), why.of(position[chosen], scores[chosen]), strict=True):
                found[row] = named
        return pa.array(found, REASONS)


def _runs(days: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and last day of each run of days that have rows, in order; a gap of GAP_DAYS ends a run."""
    distinct = np.unique(days)
    ends = [0, *(np.flatnonzero(np.diff(distinct) > GAP_DAYS) + 1).tolist(), len(distinct)]
    for begin, end in pairwise(ends):
        yield int(distinct[begin]), int(distinct[end - 1])


def _unseen(
    workload: Workload,
    events: Events,
    recent: Recent,
    states: Mapping[str, DayStates],
    position: NDArray[np.int64],
) -> dict[str, NDArray[np.bool_]]:
    """Entity → [B] whether none of its views has a state of it; without those that there is only one of."""
    unseen: dict[str, NDArray[np.bool_]] = {}
    now_us = events.column("event_us")[position]
    for view in workload.features.VIEWS:
        if workload.entity(view.entity).constant:
            continue
        if view.recent:
            mine = recent.length(position) == 0
        else:
            mine = ~states[view.name].knows(events.column(view.entity)[position], now_us)
        unseen[view.entity] = unseen.get(view.entity, True) & mine
    return unseen


def _named(unseen: Mapping[str, NDArray[np.bool_]], rows: int) -> pa.Array:
    """[B] lists of the entities that are unseen in each row."""
    flags = np.stack(list(unseen.values()), axis=1) if unseen else np.zeros((rows, 0), bool)
    places = np.nonzero(flags)[1]
    offsets = np.append(0, np.cumsum(flags.sum(axis=1)))
    names = pa.array(list(unseen), pa.string()).take(pa.array(places))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), names)
