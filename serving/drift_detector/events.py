"""Events of the stream in, scored rows of one model out: prediction events, and halves that KServe's logger sent.

An event that is not as it is described raises InvalidInput before anything is kept, so a bad event changes nothing.
Events of other models are left out, since one stream feeds several detectors; so are trials, and events of the future,
which would end the day that is being watched.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from millrace.errors import InvalidInput
from millrace.events.kinds import LOGGED, read_scored
from millrace.events.prediction import CHAMPION, REVIEW
from millrace.installed import load
from millrace.workload import Task

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


class Events:
    """Reads events for one model; holds logged requests until their responses come."""

    def __init__(
        self,
        model_name: str,
        workload: str,
        future_tolerance_s: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        parts = load(workload)
        self._model_name = model_name
        self._future_tolerance_s, self._clock = future_tolerance_s, clock
        self._width = len(parts.features.FEATURE_NAMES)
        self._decides = parts.task is Task.RANKING
        self._waiting: OrderedDict[str, list[tuple[float, ...]]] = OrderedDict()

    def read(self, body: bytes) -> list[Scored] | None:
        """The rows that an event makes known; None where it is left out. Raises InvalidInput."""
        event = read_scored(body)
        data = event["data"]
        if event["type"] == LOGGED:
            return self._logged(data) if data["model_name"] == self._model_name else None
        return [self._prediction(event)] if self._counts(data) else None

    def _counts(self, data: Mapping[str, Any]) -> bool:
        """Whether an event is this model's, no trial, and of no later time than clocks may differ by."""
        if data["model_name"] != self._model_name or data.get("dry_run"):
            return False
        return bool(data["event_timestamp"].timestamp() <= self._clock() + self._future_tolerance_s)

    def _prediction(self, event: Mapping[str, Any]) -> Scored:
        data = event["data"]
        features = self._features(data["features"])
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

    def _logged(self, half: Mapping[str, Any]) -> list[Scored]:
        """Rows of a logged response whose request is known; a request waits for its response.

        Bodies of a transformer say no features, and a response without its request has nothing to be compared with.
        """
        id_, rows = half["request_id"], half["rows"]
        if half["kind"] == "response":
            return self._joined(id_, half)
        if all("features" in row for row in rows):
            self._waiting[id_] = [self._features(row["features"]) for row in rows]
        if len(self._waiting) > WAITING_REQUESTS:
            self._waiting.popitem(last=False)
        return []

    def _joined(self, id_: str, half: Mapping[str, Any]) -> list[Scored]:
        rows, answers = self._waiting.get(id_), half["rows"]
        if rows is None:
            return []
        if len(answers) != len(rows):
            raise InvalidInput(f"the response {id_!r} has {len(answers)} scores for {len(rows)} rows")

        at = _micros(half["at"])
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

    def _features(self, values: list[float | None]) -> tuple[float, ...]:
        if len(values) != self._width:
            raise InvalidInput(f"features are {len(values)} values; wanted a list of {self._width} numbers")
        return tuple(math.nan if value is None else float(value) for value in values)


def _micros(instant: datetime) -> int:
    return int(instant.timestamp() * 1e6)
