"""Reasons of scored rows: each row as the request that it would have been, with one group of inputs left out at a time.

What may be left out is the workload's (`Explain`); which of it is a reason, `millrace.reasons`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.score.recent import Recent
from millrace.features.days import DayStates, Events
from millrace.fields import Field, Kind
from millrace.inputs import Requests, States
from millrace.installed import Workload
from millrace.reasons import reasons
from millrace.registry.model_artifact import ModelArtifact

ROWS_AT_ONCE: Final = 256
"""Rows whose variants are made, and scored, together."""


@dataclass(frozen=True, slots=True, eq=False)
class Why:
    """A day's events and states, and the model that scored them."""

    artifact: ModelArtifact
    rows: pa.Table
    """All rows of the schema, in the order of `events`."""
    events: Events
    recent: Recent
    states: Mapping[str, DayStates]

    def of(self, position: NDArray[np.int64], scores: NDArray[np.float32]) -> Iterator[list[dict[str, Any]]]:
        """The reasons of each of position[B] with its scores[B], strongest first."""
        for start in range(0, len(position), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            variants = self._variant_scores(position[part])
            for score, block in zip(scores[part].tolist(), variants, strict=True):
                yield reasons(self.artifact.workload, score, block)

    def _variant_scores(self, position: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, K] scores of the rows without each of the K groups."""
        spec, workload = self.artifact.spec, self.artifact.workload
        requests = requests_of(workload, self.rows.take(pa.array(position)))
        refreshed = self._refreshed(position)
        features, histories = [], []
        for row, place in enumerate(position.tolist()):
            view = workload.recent
            held = {} if view is None else {view.name: [self.recent.state(place, spec.history_length)]}
            states = States(held, {name: found[row : row + 1] for name, found in refreshed.items()})
            changed, history = workload.explain.variants(
                requests.part(row, row + 1),
                states,
                history_length=spec.history_length,
                sequence_length=spec.sequence_length,
            )
            features.append(changed)
            if history is not None and spec.history_channels:
                histories.append(history)

        together = np.concatenate(histories) if histories else None
        found = self.artifact.predict(np.concatenate(features), together)["score"]
        return found.reshape(len(position), -1)

    def _refreshed(self, position: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        now_us = self.events.column("event_us")[position]
        return {
            view.name: self.states[view.name].at(self.events.column(view.entity)[position], now_us)
            for view in self.artifact.workload.refreshed
        }


def requests_of(workload: Workload, rows: pa.Table) -> Requests:
    """Rows of the schema as the requests that they would have been; ids are as the states have them."""
    schema = workload.schema
    fields = {field.name: field for field in schema.FIELDS}
    return Requests(
        rows[schema.EVENT_ID].to_numpy(),
        rows["event_timestamp"].cast(pa.int64()).to_numpy(),
        {
            entity.name: rows[entity.key].to_pylist()
            for entity in schema.ENTITIES
            if not (entity.parts or entity.constant)
        },
        {name: _values(fields[name], rows[name]) for name in workload.exchange.ASKED},
    )


def _values(field: Field, column: pa.ChunkedArray) -> NDArray[Any]:
    """As `millrace.requests` keeps them: money in cents, NaN or no text for what is missing."""
    if field.kind is Kind.TEXT:
        return np.asarray(column.fill_null("").to_pylist(), dtype=object)
    if field.kind is Kind.MONEY:
        column = pc.multiply(column, pa.scalar(100, pa.decimal128(3, 0))).cast(pa.int64())
    if field.kind is Kind.NUMBER or field.empty:
        numbers: NDArray[np.float64] = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
        return numbers
    return np.asarray(column.to_numpy())
