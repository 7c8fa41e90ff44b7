"""Prediction events: scored rows as CloudEvents, on the stream before their answer goes out.

What an event says is `millrace.events.prediction`'s; the stream is `millrace.events.stream`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.events.appender import Appender
from millrace.events.kinds import encode
from millrace.events.prediction import CHAMPION, PredictionData, event_of
from millrace.events.stream import PREDICTIONS, Stream
from millrace.inputs import Requests
from millrace.instants import instant_of
from millrace.requests import shown
from serving.transformer.answers import Door
from serving.transformer.context import Context
from serving.transformer.core import Part, decision
from serving.transformer.refreshed import Keys


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The rows of one request that one model scored, as they are when the answer goes out."""

    door: Door
    context: Context
    scored_at: datetime
    latency_ms: float
    requests: Requests
    keys: Keys
    features: NDArray[np.float32]  # [B, F], all rows of the request
    degraded: bool
    part: Part

    def __len__(self) -> int:
        return len(self.part.rows)


class Events:
    """Records in, events on the stream; those of concurrent requests share an append."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._appender = stream, Appender(stream)

    def begin(self, records: Iterable[Record]) -> asyncio.Future[None]:
        """A future that is done when the events are safe; where it fails, with Unavailable, no answer may go out.

        Never cancel it: other requests wait for it too.
        """
        events = [event for record in records for event in cloud_events(record)]
        ids = [event["id"] for event in events]
        return self._appender.begin(PREDICTIONS, [encode(event) for event in events], ids)

    async def append(self, records: Iterable[Record]) -> None:
        """Return when the events are safe; raises Unavailable when they are not."""
        await asyncio.shield(self.begin(records))

    async def finish(self) -> None:
        """The last append is over: release the stream."""
        await self._appender.drained()
        self._appender.close()
        self._stream.close()


def cloud_events(record: Record) -> Iterator[dict[str, Any]]:
    """One event per row; `features` stays an array, for orjson (NaN becomes null)."""
    part, context = record.part, record.context
    for place, row in enumerate(part.rows):
        about = {"request_id": context.request_id, "traceparent": context.traceparent}
        yield event_of(_data(record, place, row), row=row, scored_at=record.scored_at, **about)


def _data(record: Record, place: int, row: int) -> PredictionData:
    door, part, requests = record.door, record.part, record.requests
    scored = part.scored
    data: PredictionData = {
        "workload": door.workload.name,
        "event_id": int(requests.event_id[row]),
        "event_timestamp": instant_of(requests.event_us[row]),
        "keys": {entity.key: record.keys[entity.name][row] for entity in door.format.asked},
        "fields": {field.name: shown(field, requests.values[field.name][row]) for field in door.kept},
        "model_name": part.model_name,
        "model_version": scored.model_version,
        "score": scored.scores[place],
        "degraded": record.degraded,
        "stage": scored.stages[place] if scored.stages else "full",
        "arm": part.arm or CHAMPION,
        "latency_ms": round(record.latency_ms, 3),
        "features": record.features[row],
        "feature_service": door.workload.features.FEATURE_SERVICE,
    }
    if "low" in scored.outputs:
        data["low"], data["high"] = scored.outputs["low"][place], scored.outputs["high"][place]
    if record.context.dry_run:
        data["dry_run"] = True
    if (made := decision(scored.scores[place], scored)) is not None:
        data["decision"] = made
    return data
