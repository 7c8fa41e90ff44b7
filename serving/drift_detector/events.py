"""CloudEvents in, scored rows of one model out: prediction events, and what KServe's logger sends of it.

An event that is not as `millrace.events.prediction` says raises InvalidInput before anything is kept, so a bad event
changes nothing. Events of other models are left out, since one stream may feed several detectors; so are trials, and
events of the future, which would end the day that is being watched.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from millrace.errors import InvalidInput
from millrace.events.prediction import CHAMPION, EVENT_TYPE, REVIEW, PredictionEvent, check
from millrace.installed import load
from millrace.workload import Task
from serving.cloudevents import LOGGED_REQUEST, Decoder, LoggedEvent
from serving.logged_rows import Payloads

WAITING_REQUESTS: Final = 10_000
"""Logged requests whose response has not come; the oldest are given up."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One scored request."""

    id: str
    model_version: str
    arm: str
    event_us: int
    features: tuple[float, ...]
    """NaN where unknown."""
    score: float
    review: bool
    """The decision was `review`; false where the task has no decisions."""
    degraded: bool
    traceparent: str = field(default="", compare=False)
    """Of the request; not kept beyond its arrival."""

    def line(self) -> bytes:
        """As a line of the journal; NaN becomes null."""
        return orjson.dumps(
            [
                self.id,
                self.model_version,
                self.arm,
                self.event_us,
                self.features,
                self.score,
                self.review,
                self.degraded,
            ]
        )

    @classmethod
    def of_line(cls, line: bytes) -> Scored:
        id_, version, arm, event_us, features, score, review, degraded = orjson.loads(line)
        values = tuple(math.nan if value is None else value for value in features)
        return cls(id_, version, arm, event_us, values, score, review, degraded)


class Events:
    """Reads events for one model; holds logged requests until their responses come."""

    def __init__(
        self,
        model_name: str,
        payloads: Payloads,
        future_tolerance_s: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        workload = load(payloads.workload)
        self._model_name, self._payloads = model_name, payloads
        self._future_tolerance_s, self._clock = future_tolerance_s, clock
        self._width = len(workload.features.FEATURE_NAMES)
        self._decides = workload.task is Task.RANKING
        self._decoder = Decoder(PredictionEvent, LoggedEvent, tensors={"features", "score"})
        self._waiting: OrderedDict[str, list[tuple[float, ...]]] = OrderedDict()

    def read(self, headers: Mapping[bytes, bytes], body: bytes) -> tuple[list[Scored], int]:
        """(the scored rows of one POST, how many events were of other models); raises InvalidInput."""
        rows: list[Scored] = []
        others = 0
        for event in self._decoder.read(headers, body):
            if event["type"] != EVENT_TYPE:
                rows += self._logged(event)
            elif self._counts(event["data"]):
                rows.append(self._prediction(event))
            else:
                others += 1
        return rows, others

    def _counts(self, data: Mapping[str, Any]) -> bool:
        """Whether an event is this model's, no trial, and of no later time than clocks may differ by."""
        if data["model_name"] != self._model_name or data.get("dry_run"):
            return False
        return bool(data["event_timestamp"].timestamp() <= self._clock() + self._future_tolerance_s)

    def _prediction(self, event: Mapping[str, Any]) -> Scored:
        data = event["data"]
        try:
            check(data)
            features = self._features(data["features"])
        except InvalidInput as error:
            raise InvalidInput(f"event {event['id']!r}: {error}") from error
        return Scored(
            event["id"],
            data["model_version"],
            data["arm"],
            _micros(data["event_timestamp"]),
            features,
            data["score"],
            data.get("decision") == REVIEW,
            data["degraded"],
            event.get("traceparent") or "",
        )

    def _logged(self, event: Mapping[str, Any]) -> list[Scored]:
        """Rows of a logged response whose request is known; a request waits for its response."""
        if event["type"] == LOGGED_REQUEST:
            parts = self._payloads.request(event["data"])
            self._waiting[event["id"]] = [self._features(part.get("features")) for part in parts]
            if len(self._waiting) > WAITING_REQUESTS:
                self._waiting.popitem(last=False)
            return []
        return self._joined(event)

    def _joined(self, event: Mapping[str, Any]) -> list[Scored]:
        """A logged response with its request; without one there is nothing to compare."""
        id_ = event["id"]
        rows = self._waiting.get(id_)
        if rows is None:
            return []
        answers = self._payloads.response(event["data"])
        if len(answers) != len(rows):
            raise InvalidInput(f"the response {id_!r} has {len(answers)} scores for {len(rows)} rows")
        if event.get("time") is None:
            raise InvalidInput(f"the response {id_!r} has no ce-time; wanted ISO 8601")

        at = _micros(event["time"])
        pairs = enumerate(zip(rows, answers, strict=True))
        found = [self._answered(f"{id_}:{row}", at, features, answer) for row, (features, answer) in pairs]
        del self._waiting[id_]
        return found

    def _answered(self, id_: str, at: int, features: tuple[float, ...], answer: Mapping[str, Any]) -> Scored:
        wanted = ("score", "model_version", *(("decision",) if self._decides else ()))
        if missing := [name for name in wanted if name not in answer]:
            raise InvalidInput(f"the response of {id_!r} says no {missing[0]}; wanted a predictor's response")
        if self._decides and not 0 <= answer["score"] <= 1:
            raise InvalidInput(f"score is {answer['score']!r}; wanted a number in [0, 1]")
        review = answer.get("decision") == REVIEW
        return Scored(id_, answer["model_version"], CHAMPION, at, features, answer["score"], review, False)

    def _features(self, values: list[float | None] | None) -> tuple[float, ...]:
        if values is None or len(values) != self._width:
            got = "absent" if values is None else f"{len(values)} values"
            raise InvalidInput(f"features are {got}; wanted a list of {self._width} numbers")
        return tuple(math.nan if value is None else float(value) for value in values)


def _micros(instant: datetime) -> int:
    return int(instant.timestamp() * 1e6)
