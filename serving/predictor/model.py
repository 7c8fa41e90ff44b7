"""KServe's model around the `LiveModel`: what the server calls for every request."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from millrace.errors import ModelFault
from millrace.observe.telemetry import MODEL_FAULTS
from serving.lean import Headers
from serving.predictor.batching import Batcher
from serving.predictor.core import Answer, Inputs
from serving.predictor.live import LiveModel, ReloadFailed
from serving.protocol import V2Answer, V2Request
from serving.reads import STATES, OtherState, place_of
from serving.server import HotModel
from serving.tensors import TensorSpec


class Predictor(HotModel):
    """Answers of the model version that is live when a request comes."""

    server = "predictor"

    def __init__(self, name: str, live: LiveModel) -> None:
        super().__init__(name)
        self._live = live
        self._reloads: set[asyncio.Task[None]] = set()
        self._begin_at_nothing()
        self.ready = True

    @property
    def inputs(self) -> Sequence[TensorSpec]:  # type: ignore[override]
        return self._live.batcher.scorer.inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:  # type: ignore[override]
        return self._live.batcher.scorer.outputs

    def place(self, headers: Headers) -> int | None:
        """Raises OtherState for inputs of other generations of state than the model's."""
        scorer = self._live.batcher.scorer
        try:
            return place_of(scorer.reads.generation, headers.get(STATES))
        except LookupError as error:
            raise OtherState(scorer.reads, scorer.version) from error

    async def answer_v1(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:  # noqa: ARG002
        batcher = self._live.batcher
        return batcher.scorer.answer_v1(*await self._score(batcher, batcher.scorer.tensors_v1(document)))

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer:  # noqa: ARG002
        batcher = self._live.batcher
        return batcher.scorer.answer_v2(*await self._score(batcher, batcher.scorer.tensors_v2(request)))

    def _begin_at_nothing(self) -> None:
        """To Prometheus a counter that is first seen with its first fault has not grown."""
        MODEL_FAULTS.labels(self.name, self._live.batcher.scorer.version)

    async def _score(self, batcher: Batcher, inputs: Inputs) -> Answer:
        """The batcher's answer; one that is none is counted as a fault of the version."""
        try:
            return await batcher.score(*inputs)
        except ModelFault:
            MODEL_FAULTS.labels(self.name, batcher.scorer.version).inc()
            raise

    async def started(self) -> None:
        """SIGHUP loads the model again."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_in_background)

    def tell_requests(self, count: Callable[[], int]) -> None:
        self._live.alone = lambda: count() == 1

    async def serves(self, version: str) -> bool:
        return version == self._live.batcher.scorer.version

    async def reload(self, version: str = "") -> str:
        now = (await self._live.reload(version)).version
        self._begin_at_nothing()
        return now

    def _reload_in_background(self) -> None:
        task = asyncio.ensure_future(self._reload_quietly())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_quietly(self) -> None:
        with suppress(ReloadFailed):  # logged and counted where it was raised
            await self.reload()
