"""The predictor: ONNX Runtime behind the KServe SDK. `python -m serving.predictor.server --model_dir=/mnt/models`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.model_artifact import ModelArtifact
from millrace.progress import log
from serving.lean import Headers
from serving.predictor.core import Scorer
from serving.protocol import V2Answer, V2Request
from serving.server import HotModel, HotServer, parser, quiet

INLINE_ROWS = 16
"""Up to this many rows are scored in the event loop: a thread's hand-over costs more than the graph."""


class Predictor(HotModel):
    """KServe's model around a `Scorer`."""

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


def main() -> None:
    arguments = parser("Serve a model artifact over V1, V2 and gRPC.")
    arguments.add_argument("--model_dir", type=Path, default=Path("/mnt/models"), help="Folder of the model artifact.")
    options, _ = arguments.parse_known_args()
    quiet()
    artifact = ModelArtifact.open(options.model_dir)
    version = os.environ.get("MODEL_VERSION", "")
    scorer = Scorer(artifact, version if version not in ("", "unset") else artifact.id)
    log("predictor_ready", model=options.model_name, version=scorer.version, port=options.http_port)
    HotServer(Predictor(options.model_name, scorer), options).serve()


if __name__ == "__main__":
    main()
