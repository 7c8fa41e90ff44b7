"""The call of the predictor: one V2 request with binary tensors on a kept-open connection, and what it says.

A call that fails, or whose answer is none, is made once more, marked so that Envoy, or Knative, takes the revision that
was rolled out before: a canary that fails costs no answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from millrace.errors import ConfigError, InvalidInput, Unavailable
from millrace.events.prediction import MAX_TEXT
from millrace.observe.telemetry import MODEL_FAULTS, PREDICTOR_FAILURES, PREDICTOR_SECONDS
from millrace.observe.tracing import span
from serving.calls import Calls, Header, Response
from serving.protocol import JSON_LENGTH_HEADER, decode_json, encode_v2_request
from serving.reads import OTHER_STATE, STATES, OtherState, Reads, suffix
from serving.transformer.core import Choice, Scored, scored_from
from serving.transformer.fit import require_rows

ATTEMPTS: Final = 2
PREVIOUS_REVISION: Final = (b"Knative-Serving-Tag", b"prev")
_ADDRESS: Final = re.compile(
    r"(?:http://)?(?P<host>[^/:]+)(?::(?P<port>\d{1,5}))?/?(?:v[12]/models/(?P<model>[^/:]+)(?:/infer|:predict)?)?"
)


Check = Callable[[Scored], None]
"""Raises Unavailable for an answer that is none."""


class Predictor(Protocol):
    """Whoever scores model inputs: a predictor behind a socket, or a model in this process."""

    model_name: str

    async def score(
        self,
        choice: Choice,
        headers: Iterable[Header] = (),
        *,
        timeout_s: float = 5.0,
        check: Check | None = None,
    ) -> Scored: ...

    async def reads(self, *, timeout_s: float = 5.0) -> Reads: ...

    async def serves(self, version: str) -> bool: ...

    async def close(self) -> None: ...


class PredictorClient:
    """`score` at the predictor behind `address`: a host with or without a port, or a predict URL."""

    def __init__(self, address: str, model_name: str, *, attempts: int = ATTEMPTS, measured: bool = True) -> None:
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise ConfigError(f"predictor {address!r}: wanted host:port, or http://host:port/v2/models/NAME/infer")
        self.model_name = found["model"] or model_name
        self._calls = Calls(found["host"], int(found["port"] or 80))
        self._model_path = f"/v2/models/{self.model_name}"
        self._path = f"{self._model_path}/infer"
        self._call = f"POST {self._path}"
        self._attempts = attempts
        self._measured = measured

    async def score(
        self,
        choice: Choice,
        headers: Iterable[Header] = (),
        *,
        timeout_s: float = 5.0,
        check: Check | None = None,
    ) -> Scored:
        """What the model says of the inputs of the generation that it reads.

        What `check` refuses is no answer: the revision that was rolled out before is asked then. Raises OtherState
        where no inputs are for it, Unavailable for anything else.
        """
        features = choice.inputs[0][0]
        body, length = encode_v2_request(_tensors(choice))
        head = [(JSON_LENGTH_HEADER.encode(), b"%d" % length), *headers]
        if choice.generations:
            head.append((STATES, ",".join(choice.generations).encode()))
        began = time.perf_counter()
        for attempt in range(self._attempts):
            left = timeout_s - (time.perf_counter() - began)
            try:
                # What hangs must leave time for another try.
                scored = await self._ask(body, head, left / (self._attempts - attempt))
                self._require(scored, len(features), check)
            except Unavailable:
                PREDICTOR_FAILURES.inc(self._measured)
                if attempt + 1 == self._attempts:
                    raise
                head.append(PREVIOUS_REVISION)
            else:
                break
        if self._measured:
            PREDICTOR_SECONDS.labels(scored.model_version).observe(time.perf_counter() - began)
        return scored

    def _require(self, scored: Scored, rows: int, check: Check | None) -> None:
        """Raise Unavailable for an answer that is none, and count it as a fault of the version that gave it."""
        try:
            require_rows(scored, rows)
            if check is not None:
                check(scored)
        except Unavailable:
            MODEL_FAULTS.labels(self.model_name, scored.model_version[:MAX_TEXT]).inc(self._measured)
            raise

    async def reads(self, *, timeout_s: float = 5.0) -> Reads:
        """What the model that answers now reads; raises Unavailable."""
        body, length = encode_v2_request({})
        head = [(JSON_LENGTH_HEADER.encode(), b"%d" % length), (STATES, b"")]
        try:
            scored = await self._ask(body, head, timeout_s)
        except OtherState as other:
            return other.reads
        return scored.reads

    async def serves(self, version: str) -> bool:
        """Whether a revision behind the address says that it is this version; raises Unavailable."""
        answer = await self._calls.request("GET", f"{self._model_path}/versions/{quote(version, safe='')}/ready")
        return answer.status == 200

    async def _ask(self, body: bytes, head: list[Header], timeout_s: float) -> Scored:
        with span(self._call) as call:
            answer = await self._calls.request("POST", self._path, body, call.forward(head), timeout_s=timeout_s)
            call.answered(answer.status)
            return _scored(answer)

    async def close(self) -> None:
        await self._calls.close()


def _tensors(choice: Choice) -> dict[str, tuple[str, NDArray[np.float32]]]:
    tensors = {}
    for place, (features, history) in enumerate(choice.inputs):
        tensors[f"features{suffix(place)}"] = "FP32", features
        if history is not None:
            tensors[f"history{suffix(place)}"] = "FP32", history
    return tensors


def _scored(answer: Response) -> Scored:
    if answer.status == OTHER_STATE:
        raise OtherState(Reads.found_in(_document(answer)))
    if answer.status != 200:
        raise Unavailable(f"the predictor answered {answer.status}: {answer.body[:300].decode(errors='replace')}")
    try:
        return scored_from(decode_json(answer.body))
    except InvalidInput as error:
        raise Unavailable(f"the predictor's answer cannot be read: {error}") from error


def _document(answer: Response) -> Mapping[str, Any]:
    try:
        return decode_json(answer.body)
    except InvalidInput as error:
        raise Unavailable(f"what the predictor reads cannot be read: {error}") from error
