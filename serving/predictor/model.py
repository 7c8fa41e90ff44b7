"""KServe's model around a `Scorer`: what the server calls for every request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.lean import Headers
from serving.predictor.core import Scorer
from serving.protocol import V2Answer, V2Request
from serving.server import HotModel

INLINE_ROWS: Final = 16
"""Up to this many rows are scored in the event loop: a thread's hand-over costs more than the graph."""


class Predictor(HotModel):
    """Answers of one model version."""

    def __init__(self, name: str, scorer: Scorer) -> None:
        super().__init__(name)
        self._scorer = scorer
        self.inputs, self.outputs = scorer.inputs, scorer.outputs
        self.ready = True

    async def answer_v1(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:  # noqa: ARG002
        return self._scorer.answer_v1(await self._score(*self._scorer.tensors_v1(document)))

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer:  # noqa: ARG002
        return self._scorer.answer_v2(await self._score(*self._scorer.tensors_v2(request)))

    async def _score(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(features) <= INLINE_ROWS:
            return self._scorer.score(features, history)
        return await asyncio.to_thread(self._scorer.score, features, history)
