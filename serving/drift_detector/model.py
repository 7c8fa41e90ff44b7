"""KServe's model and routes around the service: events in, alarms out, and `:predict` for a window in the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from millrace.errors import InvalidInput
from millrace.events.appender import Appender
from millrace.events.kinds import encode
from millrace.events.stream import PREDICTIONS
from millrace.observe.progress import REQUEST
from millrace.observe.tracing import Span, Value, server_span
from serving.drift_detector.judgement import Judgement, Window, as_document
from serving.drift_detector.service import DriftService
from serving.lean import Headers, Reply, error_reply, read_body
from serving.posted import Posted
from serving.protocol import V2Answer, V2Request, decode_v1
from serving.server import HotModel
from serving.tensors import TensorSpec, kind, numbers, require_finite

FLOAT32: Final = np.dtype(np.float32)
EVENTS: Final[Mapping[str, Value]] = {"http.request.method": "POST", "http.route": "/"}


class DriftModel(HotModel):
    """`:predict` judges the window in the request with the reference of the version served now; nothing is kept."""

    server = "drift_detector"

    def __init__(
        self,
        name: str,
        service: DriftService,
        posted: Posted,
        appender: Appender,
        waiting: Callable[[], int],
        width: int,
    ) -> None:
        """`waiting` counts events on the stream that are not judged."""
        super().__init__(name)
        self._service, self._posted, self._appender, self._waiting = service, posted, appender, waiting
        self._width = width
        self.inputs = (
            TensorSpec("features", "FP32", (-1, width)),
            TensorSpec("score", "FP32", (-1,), optional=True),
        )
        names = ("statistic", "p_value")
        self.outputs = (
            *(TensorSpec(item, "FP64", (-1,)) for item in names),
            TensorSpec("drifted", "BOOL", (-1,)),
            TensorSpec("feature", "BYTES", (-1,)),
        )
        self.ready = True

    async def answer_v1(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:  # noqa: ARG002
        """`{"instances": [{"features": [F], "score"?: number}, …]}`: one window → one prediction."""
        instances = decode_v1(document)
        for row, instance in enumerate(instances):
            if not isinstance(instance, dict) or instance.keys() - {"score"} != {"features"}:
                raise InvalidInput(f"instance {row} is a {kind(instance)}; wanted an object with features, and score")
        scores = [instance.get("score") for instance in instances]
        given = None if all(score is None for score in scores) else numbers(scores, FLOAT32, "score")
        judgement = await self._judge(numbers([item["features"] for item in instances], FLOAT32, "features"), given)
        return {"predictions": [as_document(judgement)], "model_version": judgement.model_version}

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer:  # noqa: ARG002
        judgement = await self._judge(request.tensors["features"], request.tensors.get("score"))
        found = judgement.comparisons
        outputs = {
            "statistic": ("FP64", np.array([_number(item.statistic) for item in found])),
            "p_value": ("FP64", np.array([_number(item.p_value, 1.0) for item in found])),
            "drifted": ("BOOL", np.array([item.drifted for item in found])),
            "feature": ("BYTES", np.array([item.name for item in found], object)),
        }
        parameters: dict[str, Any] = {"drifted": judgement.drifted, "severity": judgement.severity}
        parameters |= {"reason": judgement.reason, "joint_p_value": _number(judgement.joint_p_value, 1.0)}
        return V2Answer(outputs, judgement.model_version, parameters)

    async def events(self, request: Request) -> Response:
        """`POST /`: CloudEvents; 202 when they are on the stream."""
        headers = dict(request.scope["headers"])
        with server_span("POST /", headers, EVENTS) as span:
            REQUEST.set(span.headers(headers))
            answer = await self._take(request, span)
            span.answered(answer.status_code)
        return answer

    async def _take(self, request: Request, span: Span) -> Response:
        try:
            headers = dict(request.scope["headers"])
            events = self._posted.read(headers, await read_body(request.receive, headers), datetime.now(UTC))
            span.link(event.get("traceparent") or "" for event in events)
            ids = [event["id"] for event in events]
            await self._appender.append(PREDICTIONS, [encode(event) for event in events], ids)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
            return _response(error_reply(error))
        return Response(b'{"accepted":%d}' % len(events), 202, media_type="application/json")

    async def alarms(self, request: Request) -> Response:  # noqa: ARG002
        """`GET /v1/alarms`: newest last."""
        return Response(orjson.dumps(self._service.alarms), media_type="application/json")

    async def status(self, request: Request) -> Response:  # noqa: ARG002
        """`GET /v1/drift`: what waits, and the last judgement of each kind of window."""
        history = self._service.history
        last = {item["window"]: item for item in history}
        body = {"waiting": await asyncio.to_thread(self._waiting), "judged": len(history), "last": last}
        return Response(orjson.dumps(body), media_type="application/json")

    async def _judge(self, features: NDArray[np.float32], scores: NDArray[np.float32] | None) -> Judgement:
        if features.ndim != 2 or features.shape[1] != self._width:
            raise InvalidInput(f"features stack to {list(features.shape)}; wanted [W, {self._width}]")
        require_finite(features, "features")
        if scores is not None:
            require_finite(scores, "score")
        return await asyncio.to_thread(self._judge_now, features, scores)

    def _judge_now(self, features: NDArray[np.float32], scores: NDArray[np.float32] | None) -> Judgement:
        version = self._service.current_version()
        reference = self._service.detector(version).reference
        # Without scores nothing is said about them.
        known = np.full(len(features), np.nan, np.float32) if scores is None else scores
        return self._service.judge(Window(features, known, reference.review(known)), version)


def _response(reply: Reply) -> Response:
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, media_type="application/json")


def _number(value: float | None, absent: float = 0.0) -> float:
    return absent if value is None else value
