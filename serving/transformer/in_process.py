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
from millrace.registry.model_artifact import STAGES
from millrace.settings import Settings
from serving.connections import Header
from serving.predictor.batching import Batcher
from serving.predictor.live import LiveModel
from serving.transformer.core import Scored


class InProcess:
    """A `Predictor` around the model artifact in `folder`, with the predictor's own batching."""

    def __init__(self, folder: Path, model_name: str, options: Settings) -> None:
        self.model_name = model_name
        version = os.environ.get("MODEL_VERSION", "")
        self._live = LiveModel(folder, options, "" if version == "unset" else version)

    async def score(
        self,
        features: NDArray[np.float32],
        history: NDArray[np.float32],
        headers: Iterable[Header] = (),  # noqa: ARG002 - there is nobody to forward them to
        *,
        timeout_s: float = 5.0,
    ) -> Scored:
        """As `PredictorClient.score`."""
        began = time.perf_counter()
        batcher = self._live.batcher
        try:
            async with asyncio.timeout(timeout_s):
                outputs, stages = await batcher.score(features, history)
        except (TimeoutError, InvalidInput, Unavailable) as error:
            PREDICTOR_FAILURES.inc()
            raise Unavailable(f"the model in this process gave no score: {error!r}") from error
        PREDICTOR_SECONDS.labels(batcher.scorer.version).observe(time.perf_counter() - began)
        return _scored(batcher, outputs["score"], stages)


def _scored(batcher: Batcher, scores: NDArray[np.float32], stages: NDArray[np.uint8]) -> Scored:
    scorer = batcher.scorer
    names = tuple(STAGES[stage] for stage in stages.tolist())
    return Scored(scores, scorer.version, scorer.artifact.decision_threshold, scorer.longest, names)
