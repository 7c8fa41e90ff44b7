"""CloudEvents and labels into records for the journal; whatever is wrong is refused here, by name, whole.

A prediction event is `millrace.events.prediction`'s, how events arrive is `serving.cloudevents`'. A record is a JSON
object with its `kind`; `writer.py` makes rows of it. Pure functions, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, create_model

from millrace.errors import InvalidInput
from millrace.events.prediction import (
    EVENT_TYPE,
    EventId,
    Number,
    PredictionEvent,
    check,
    plausible,
    request_of,
    told_of,
)
from millrace.installed import load
from millrace.workload import Task
from serving.cloudevents import LOGGED_REQUEST, Decoder, LoggedEvent, parse
from serving.logged_rows import Bodies

Headers = Mapping[bytes, bytes]


class Events:
    """Reads what is posted to the log."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._decoder = Decoder(PredictionEvent, LoggedEvent, tensors=bodies.tensors)

    def read(self, headers: Headers, body: bytes, received: datetime) -> list[dict[str, Any]]:
        """The records of a request, all or none; `received` stands for a time that an event lacks."""
        records = []
        for place, event in enumerate(self._decoder.read(headers, body)):
            try:
                records.append(self._record(event, received))
            except InvalidInput as error:
                raise InvalidInput(f"event {place} ({event['type']}): {error}") from error
        return records

    def _record(self, event: Mapping[str, Any], received: datetime) -> dict[str, Any]:
        at = plausible("time", event.get("time") or received)
        if event["type"] == EVENT_TYPE:
            return {"kind": "prediction", "received": received, "row": _row(event, at)}

        model_name = event.get("inferenceservicename") or event["source"].rstrip("/").rpartition("/")[2]
        payloads = self._bodies.of(model_name)
        half = "request" if event["type"] == LOGGED_REQUEST else "response"
        rows = payloads.request(event["data"]) if half == "request" else payloads.response(event["data"])
        about = {"request_id": event["id"], "at": at, "model_name": model_name, "workload": payloads.workload}
        return {"kind": half, "received": received, **about, "rows": rows}


def _row(event: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    """A prediction event as a row of the log."""
    data = event["data"]
    check(data)
    return {
        **data,
        "prediction_id": event["id"],
        "request_id": request_of(event["id"]),
        "scored_at": at,
        "traceparent": event.get("traceparent"),
    }


def decode_labels(body: bytes, received: datetime, workload: str) -> list[dict[str, Any]]:
    """`{"labels": [{<event id>, <label>, label_timestamp?}]}` → records; raises InvalidInput naming the label."""
    told, label = told_of(workload), load(workload).schema.LABEL
    found = [label.model_dump() for label in parse(_labels(workload), body).labels]
    return [
        label_record(workload, row[told.event_id], row[label.column], row["label_timestamp"], received) for row in found
    ]


def label_record(
    workload: str, event_id: int, value: float, known: datetime | None, received: datetime
) -> dict[str, Any]:
    """A label as the journal keeps it; `dated` says whether its time was told or is that of its arrival."""
    return {
        "kind": "label",
        "received": received,
        "dated": known is not None,
        "workload": workload,
        "event_id": event_id,
        "label_timestamp": plausible("label_timestamp", known or received),
        "value": float(value),
    }


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
