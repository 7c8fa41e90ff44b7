"""Score validated tensors with a model artifact: requests of both protocols in, scores out. No sockets, no KServe.

The history of a request may be longer than the model reads (the customer's whole state): its newest part is taken, so
that a caller need not know which model answers. Who runs requests together is `batching.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from millrace.registry.model_artifact import STAGES, ModelArtifact
from serving.protocol import V2Answer, V2Request, decode_v1
from serving.tensors import TensorSpec, kind, numbers, require_finite

FLOAT32: Final = np.dtype(np.float32)

Inputs = tuple[NDArray[np.float32], NDArray[np.float32]]
"""features[B, F], history[B, L, C]."""
Scores = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""scores[B] in [0, 1], and where each came from: places in `millrace.registry.model_artifact.STAGES`."""


class Scorer:
    """One model version: what it wants, and its scores."""

    def __init__(self, artifact: ModelArtifact, version: str) -> None:
        spec = artifact.spec
        self.artifact = artifact
        self.version = version
        self.length = spec.sequence_length
        self.longest = spec.history_length
        self.inputs = (
            TensorSpec("features", "FP32", (-1, len(spec.feature_names))),
            TensorSpec("history", "FP32", (-1, -1, len(spec.history_channels))),
        )
        self.outputs = (TensorSpec("score", "FP32", (-1,)), TensorSpec("stage", "BYTES", (-1,)))
        self.parameters = {"decision_threshold": artifact.decision_threshold, "history_length": self.longest}
        """What goes out with every answer: the threshold to decide with, and the N to make features with."""

    def prepare(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Inputs:
        """features[B, F], history[B, L … N, C] as the graph reads them; raises InvalidInput."""
        for spec, tensor in zip(self.inputs, (features, history), strict=True):
            if tensor.dtype != FLOAT32 or tensor.ndim != len(spec.shape) or tensor.shape[-1] != spec.shape[-1]:
                raise InvalidInput(f"tensor {spec.name!r} is {tensor.dtype} {list(tensor.shape)}; wanted {spec}")
        if len(features) != len(history):
            raise InvalidInput(f"features has {len(features)} rows and history {len(history)}; wanted as many of each")
        if not self.length <= history.shape[1] <= self.longest:
            raise InvalidInput(
                f"history has {history.shape[1]} steps; wanted {self.length} to {self.longest}, "
                "newest last, padded in front with 0"
            )
        require_finite(features, "features")
        require_finite(history, "history")
        return features, history[:, -self.length :]

    def run(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """Prepared rows, of one request or of several → their scores, which the caller checks to be finite."""
        return self.artifact.run(features, np.ascontiguousarray(history))

    def score(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """`prepare`, then `run`, for a caller without a batcher; raises InvalidInput."""
        scores, stages = self.run(*self.prepare(features, history))
        require_finite(scores, "score")
        return scores, stages

    def tensors_v1(self, document: Mapping[str, Any]) -> Inputs:
        """A V1 document of `{"features": [F], "history": [[C] × L]}` → features[B, F], history[B, L, C]."""
        instances = decode_v1(document)
        for row, instance in enumerate(instances):
            _require_fields(row, instance)
        features, history = self.inputs
        return (
            _stack([instance["features"] for instance in instances], features),
            _stack([instance["history"] for instance in instances], history),
        )

    def answer_v1(self, scores: NDArray[np.float32], stages: NDArray[np.uint8]) -> dict[str, Any]:
        names = [STAGES[stage] for stage in stages.tolist()]
        return {"predictions": scores.tolist(), "stages": names, "model_version": self.version, **self.parameters}

    def answer_v2(self, scores: NDArray[np.float32], stages: NDArray[np.uint8]) -> V2Answer:
        outputs = {"score": ("FP32", scores), "stage": ("BYTES", _NAMES[stages])}
        return V2Answer(outputs, self.version, self.parameters)

    @staticmethod
    def tensors_v2(request: V2Request) -> Inputs:
        return request.tensors["features"], request.tensors["history"]


_NAMES: Final = np.array(STAGES, dtype=object)


def _require_fields(row: int, instance: Any) -> None:
    if not isinstance(instance, dict):
        raise InvalidInput(f"instance {row} is a {kind(instance)}; wanted an object with features and history")
    odd = instance.keys() ^ {"features", "history"}
    if odd:
        name = min(odd)
        state = "unknown" if name in instance else "missing"
        raise InvalidInput(f"instance {row}: field {name!r} is {state}; wanted features and history")


def _stack(rows: list[Any], spec: TensorSpec) -> NDArray[np.float32]:
    array: NDArray[np.float32] = numbers(rows, FLOAT32, spec.name)
    wanted = spec.shape
    if array.ndim != len(wanted) or array.shape[-1] != wanted[-1]:
        raise InvalidInput(f"{spec.name} of the instances stack to {list(array.shape)}; wanted {spec}")
    return array
