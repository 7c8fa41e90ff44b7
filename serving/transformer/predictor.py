"""The call of the predictor: one V2 request with binary tensors on a kept-open connection, and what it says."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput, Unavailable
from serving.connections import Connections, Response
from serving.lean import Headers
from serving.protocol import JSON_LENGTH_HEADER, decode_json, encode_v2_request
from serving.transformer.core import Scored, scored_from

FORWARDED: Final = (b"x-request-id", b"traceparent", b"tracestate", b"ce-id")
"""Headers of the client that go on to the predictor."""


class PredictorClient:
    """`score` at the predictor behind `address`, a host with or without a port."""

    def __init__(self, address: str, model_name: str, timeout_s: float = 5.0) -> None:
        host, _, port = address.partition(":")
        self._connections = Connections(host, int(port or 80))
        self._path = f"/v2/models/{model_name}/infer".encode()
        self._timeout_s = timeout_s

    async def score(
        self, features: NDArray[np.float32], history: NDArray[np.float32], headers: Headers | None = None
    ) -> Scored:
        """features[B, F], history[B, N, C] → scores[B] and the threshold that goes with them; raises Unavailable."""
        body, length = encode_v2_request({"features": ("FP32", features), "history": ("FP32", history)})
        forwarded = [(name, headers[name]) for name in FORWARDED if name in headers] if headers else []
        head = [(JSON_LENGTH_HEADER.encode(), b"%d" % length), *forwarded]
        answer = await self._connections.request(b"POST", self._path, body, head, timeout_s=self._timeout_s)
        return _scored(answer)

    def close(self) -> None:
        self._connections.close()


def _scored(answer: Response) -> Scored:
    if answer.status != 200:
        raise Unavailable(f"the predictor answered {answer.status}: {answer.body[:300].decode(errors='replace')}")
    try:
        return scored_from(decode_json(answer.body))
    except InvalidInput as error:
        raise Unavailable(f"the predictor's answer cannot be read: {error}") from error
