"""The model in the transformer's own process, with MILLRACE_PREDICTOR_TOPOLOGY=in_process: no socket, and no canary."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput, Unavailable
from millrace.observe.telemetry import PREDICTOR_FAILURES, PREDICTOR_SECONDS
from millrace.registry.model_artifact import STAGES, Outputs
from millrace.settings import Settings
from serving.calls import Header
from serving.predictor.batching import Batcher
from serving.predictor.live import LiveModel
from serving.reads import OtherState, Reads
from serving.transformer.core import Choice, Inputs, Scored
from serving.transformer.predictor import Check


class InProcess:
    """A `Predictor` around the model artifact in `folder`, with the predictor's own batching."""

    def __init__(self, folder: Path, model_name: str, options: Settings) -> None:
        self.model_name = model_name
        version = os.environ.get("MODEL_VERSION", "")
        self._live = LiveModel(folder, options, "" if version == "unset" else version)

    async def serves(self, version: str) -> bool:
        return version == self._live.batcher.scorer.version

    async def score(
        self,
        choice: Choice,
        headers: Iterable[Header] = (),  # noqa: ARG002 - there is nobody to forward them to
        *,
        timeout_s: float = 5.0,
        check: Check | None = None,
    ) -> Scored:
        """As `PredictorClient.score`; nobody else can be asked."""
        began = time.perf_counter()
        batcher = self._live.batcher
        inputs = _own(choice, batcher)
        try:
            async with asyncio.timeout(timeout_s):
                outputs, stages = await batcher.score(*(tensor for tensor in inputs if tensor is not None))
        except (TimeoutError, InvalidInput, Unavailable) as error:
            PREDICTOR_FAILURES.inc()
            raise Unavailable(f"the model in this process gave no score: {error!r}") from error
        PREDICTOR_SECONDS.labels(batcher.scorer.version).observe(time.perf_counter() - began)
        scored = _scored(batcher, outputs, stages)
        if check is not None:
            check(scored)
        return scored

    async def reads(self, *, timeout_s: float = 5.0) -> Reads:  # noqa: ARG002 - nobody is asked
        return self._live.batcher.scorer.reads

    async def close(self) -> None:
        """Nothing is open."""


def _own(choice: Choice, batcher: Batcher) -> Inputs:
    """The inputs of the generation that the model reads; raises OtherState where there are none."""
    reads = batcher.scorer.reads
    if choice.generations and reads.generation not in choice.generations:
        raise OtherState(reads, batcher.scorer.version)
    return choice.inputs[choice.generations.index(reads.generation) if choice.generations else 0]


def _scored(batcher: Batcher, outputs: Outputs, stages: NDArray[np.uint8]) -> Scored:
    scorer = batcher.scorer
    spec = scorer.artifact.spec
    names = tuple(STAGES[stage] for stage in stages.tolist())
    return Scored(outputs, scorer.version, spec.decision_threshold, scorer.longest, names, scorer.reads)
