"""CloudEvents in, scored rows out: our prediction events and KServe's logger events. No I/O, no state but what waits.

Everything that is not as docs/architecture.md says raises InvalidInput before anything is kept, so a bad
event changes nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import orjson

from millrace.errors import InvalidInput
from serving.logged import decode_logged
from serving.protocol import JSON_LENGTH_HEADER
from serving.tensors import TooLarge

PREDICTION: Final = "io.millrace.prediction"
LOGGED_REQUEST: Final = "org.kubeflow.serving.inference.request"
LOGGED_RESPONSE: Final = "org.kubeflow.serving.inference.response"
BATCH, STRUCTURED = "application/cloudevents-batch+json", "application/cloudevents+json"
LOGGED: Final = ("features", "score")
"""Tensors of a logged body that are read."""
MAX_EVENTS: Final = 10_000
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

    def __init__(self, model_name: str, feature_names: Sequence[str]) -> None:
        self._model_name = model_name
        self._width = len(feature_names)
        self._waiting: OrderedDict[str, list[tuple[float, ...]]] = OrderedDict()

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Scored]:
        """The scored rows of one POST; none for a logged request. Raises InvalidInput, TooLarge."""
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind == BATCH:
            events = _json(body)
            if not isinstance(events, list):
                raise InvalidInput(f"a {BATCH} body is a JSON array of events; got {type(events).__name__}")
            if len(events) > MAX_EVENTS:
                raise TooLarge(f"{len(events)} events in one batch; wanted at most {MAX_EVENTS}")
            return [self._prediction(event) for event in events]
        if kind == STRUCTURED:
            return [self._prediction(_json(body))]
        if "ce-specversion" in headers:
            attributes = {key[3:]: value for key, value in headers.items() if key.startswith("ce-")}
            return self._binary(body, attributes, headers.get(JSON_LENGTH_HEADER))
        raise InvalidInput(f"not a CloudEvent: content type {kind or 'none'!r}, no ce- headers; wanted {BATCH}")

    def _binary(self, body: bytes, attributes: Mapping[str, str], json_length: str | None) -> list[Scored]:
        kind, id_ = attributes.get("type", ""), attributes.get("id", "")
        if kind == PREDICTION:
            return [self._prediction({**attributes, "data": _json(body)})]
        if kind not in (LOGGED_REQUEST, LOGGED_RESPONSE):
            raise InvalidInput(f"event type {kind!r}; wanted {PREDICTION}, {LOGGED_REQUEST} or {LOGGED_RESPONSE}")
        if not id_ or attributes.get("specversion") != "1.0":
            raise InvalidInput("a logger event wants ce-id and ce-specversion 1.0")
        document = decode_logged(body, LOGGED, json_length)
        if kind == LOGGED_REQUEST:
            self._waiting[id_] = _logged_features(document, self._width)
            if len(self._waiting) > WAITING_REQUESTS:
                self._waiting.popitem(last=False)
            return []
        return self._joined(id_, document, attributes)

    def _joined(self, id_: str, document: dict[str, Any], attributes: Mapping[str, str]) -> list[Scored]:
        """A logged response with its request; without one there is nothing to compare."""
        rows = self._waiting.get(id_)
        if rows is None:
            return []
        scores, version, threshold = _logged_scores(document)
        if len(scores) != len(rows):
            raise InvalidInput(f"the response {id_!r} has {len(scores)} scores for {len(rows)} rows")
        stamp = _micros(attributes.get("time"))
        found = [
            Scored(
                f"{id_}:{row}",
                version,
                "champion",
                stamp,
                values,
                score,
                score >= threshold,
                False,
            )
            for row, (values, score) in enumerate(zip(rows, scores, strict=True))
        ]
        del self._waiting[id_]
        return found

    def _prediction(self, event: Any) -> Scored:
        if not isinstance(event, dict) or event.get("specversion") != "1.0":
            raise InvalidInput("not a CloudEvent: an object with specversion '1.0' was wanted")
        id_, data = event.get("id"), event.get("data")
        if event.get("type") != PREDICTION:
            raise InvalidInput(f"event {id_!r} has type {event.get('type')!r}; wanted {PREDICTION}")
        if not isinstance(id_, str) or not id_ or len(id_) > 512 or not isinstance(data, dict):
            raise InvalidInput(f"event {str(id_)[:80]!r} lacks an id of 1 to 512 characters, or data")
        if data.get("model_name") != self._model_name:
            raise InvalidInput(f"event {id_!r} is of model {data.get('model_name')!r}; wanted {self._model_name!r}")
        if data.get("decision") not in ("review", "approve"):
            raise InvalidInput(f"event {id_!r} has decision {data.get('decision')!r}; wanted review or approve")
        return Scored(
            id_,
            _text(data, "model_version", id_),
            str(data.get("arm") or "champion"),
            _micros(data.get("event_timestamp")),
            _features(data.get("features"), self._width),
            _score(data.get("score")),
            data["decision"] == "review",
            data.get("degraded") is True,
            event["traceparent"] if isinstance(event.get("traceparent"), str) else "",
        )


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error} (NaN and Infinity are not)") from error


def _text(data: Mapping[str, Any], key: str, id_: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"event {id_!r}: {key} is {value!r}; wanted a string")
    return value


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidInput(f"score is {value!r}; wanted a number in [0, 1]")
    return float(value)


def _features(values: Any, width: int) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != width:
        got = f"{len(values)} values" if isinstance(values, list) else repr(values)[:40]
        raise InvalidInput(f"features are {got}; wanted a list of {width} numbers")
    for value in values:
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 3e38
        ):
            raise InvalidInput(f"a feature is {value!r}; wanted a number that fits float32, or null")
    return tuple(math.nan if value is None else float(value) for value in values)


def _micros(text: Any) -> int:
    try:
        stamp = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a time is {text!r}; wanted ISO 8601 such as 2018-09-30T12:00:00+00:00") from error
    if stamp.tzinfo is None:
        raise InvalidInput(f"a time is {text!r}, without a zone; wanted UTC")
    return int(stamp.timestamp() * 1e6)


def _logged_features(document: Mapping[str, Any], width: int) -> list[tuple[float, ...]]:
    """Rows of `features` in a predictor's V1 or V2 body."""
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list) or not all(isinstance(item, dict) for item in instances):
            raise InvalidInput("logged instances are not a list of objects with features")
        return [_features(item.get("features"), width) for item in instances]
    tensor = _tensor(document, "inputs", "features")
    values = np.asarray(tensor.get("data"), np.float64).reshape(-1, width) if _flat(tensor, width) else None
    if values is None:
        raise InvalidInput(f"logged tensor 'features' is not [B, {width}] numbers as JSON")
    return [_features(row, width) for row in values.tolist()]


def _logged_scores(document: Mapping[str, Any]) -> tuple[list[float], str, float]:
    parameters = document.get("parameters") or document
    threshold = parameters.get("decision_threshold")
    if not isinstance(threshold, int | float):
        raise InvalidInput("the logged response has no decision_threshold; wanted a predictor's response")
    raw = document["predictions"] if "predictions" in document else _tensor(document, "outputs", "score").get("data")
    if not isinstance(raw, list):
        raise InvalidInput("the logged response has no list of scores")
    return [_score(value) for value in raw], _text(document, "model_version", "response"), float(threshold)


def _tensor(document: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    for item in document.get(key) or []:
        if isinstance(item, dict) and item.get("name") == name:
            return item
    raise InvalidInput(f"the logged body has no tensor {name!r} among its {key}")


def _flat(tensor: Mapping[str, Any], width: int) -> bool:
    data = tensor.get("data")
    if not isinstance(data, list) or not data:
        return False
    flat = [value for row in data for value in row] if isinstance(data[0], list) else data
    return len(flat) % width == 0 and all(isinstance(value, int | float) for value in flat)
