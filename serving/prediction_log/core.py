"""Labels that are posted into events for the stream, and predictions from the stream into rows; no I/O.

What travels on the stream is described by `millrace.events.prediction` and `millrace.events.kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, create_model

from millrace.events.kinds import label_of
from millrace.events.prediction import (
    EventId,
    Number,
    plausible,
    request_of,
    told_of,
)
from millrace.installed import load
from millrace.workload import Task
from serving.cloudevents import parse


def row_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction event as a row of the log."""
    return {
        **event["data"],
        "prediction_id": event["id"],
        "request_id": request_of(event["id"]),
        "scored_at": event["time"],
        "traceparent": event.get("traceparent"),
    }


def decode_labels(body: bytes, received: datetime, workload: str) -> list[dict[str, Any]]:
    """`{"labels": [{<event id>, <label>, label_timestamp?}]}` → events; raises InvalidInput naming the label."""
    told, label = told_of(workload), load(workload).schema.LABEL
    found = [label.model_dump() for label in parse(_labels(workload), body).labels]
    return [
        label_event(workload, row[told.event_id], row[label.column], row["label_timestamp"], received) for row in found
    ]


def label_event(
    workload: str, event_id: int, value: float, known: datetime | None, received: datetime
) -> dict[str, Any]:
    """A label for the stream; without a time it is known from its arrival."""
    at = plausible("label_timestamp", known or received)
    return label_of(
        {
            "workload": workload,
            "event_id": event_id,
            "label_timestamp": at,
            "dated": known is not None,
            "value": float(value),
        }
    )


@cache
def _labels(workload: str) -> TypeAdapter[Any]:
    """What a body of labels is, by the workload's own names; without a time a label is known from its arrival."""
    parts = load(workload)
    flag = Annotated[Literal[0, 1] | bool, Field(union_mode="left_to_right")]
    value: Any = Number if parts.task is Task.REGRESSION else flag
    fields: dict[str, Any] = {parts.schema.EVENT_ID: (EventId, ...), parts.schema.LABEL.column: (value, ...)}
    label = create_model("Label", __config__=_EXACT, label_timestamp=(AwareDatetime | None, None), **fields)
    labels: Any = list[label]  # type: ignore[valid-type]
    return TypeAdapter(create_model("Labels", __config__=_EXACT, labels=(labels, ...)))


_EXACT: Final = ConfigDict(strict=True, extra="forbid")
