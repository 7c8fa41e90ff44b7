"""Score validated tensors with a model artifact: requests of both protocols in, scores out. No sockets, no KServe.

The history of a request may be longer than the model reads (the customer's whole state): its newest part is taken, so
that a caller need not know which model answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from millrace.model_artifact import ModelArtifact
from serving.protocol import V2Answer, V2Request, decode_v1
from serving.tensors import TensorSpec, kind, numbers, require_finite

FLOAT32: Final = np.dtype(np.float32)


class Scorer:
    """One model version: what it wants, and its scores."""

    def __init__(self, artifact: ModelArtifact, version: str) -> None:
        spec = artifact.spec
        self._artifact = artifact
        self.version = version
        self.length = spec.sequence_length
        self.longest = spec.history_length
        self.inputs = (
            TensorSpec("features", "FP32", (-1, len(spec.feature_names))),
            TensorSpec("history", "FP32", (-1, -1, len(spec.history_channels))),
        )
        self.outputs = (TensorSpec("score", "FP32", (-1,)),)

    @property
    def parameters(self) -> dict[str, Any]:
        """What goes out with every answer: the threshold to decide with, and the N to make features with."""
        return {"decision_threshold": self._artifact.decision_threshold, "history_length": self.longest}

    def score(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> NDArray[np.float32]:
        """features[B, F], history[B, L … N, C] → scores[B]; raises InvalidInput for NaN, infinity, a short history."""
        if not self.length <= history.shape[1] <= self.longest:
            raise InvalidInput(
                f"history has {history.shape[1]} steps; wanted {self.length} to {self.longest}, "
                "newest last, padded in front with 0"
            )
        require_finite(features, "features")
        require_finite(history, "history")
        return self._artifact.score(features, np.ascontiguousarray(history[:, -self.length :]))

    def tensors_v1(self, document: Mapping[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A V1 document of `{"features": [F], "history": [[C] × L]}` → features[B, F], history[B, L, C]."""
        instances = decode_v1(document)
        for row, instance in enumerate(instances):
            _require_fields(row, instance)
        features, history = self.inputs
        return (
            _stack([instance["features"] for instance in instances], features),
            _stack([instance["history"] for instance in instances], history),
        )

    def answer_v1(self, scores: NDArray[np.float32]) -> dict[str, Any]:
        return {"predictions": scores.tolist(), "model_version": self.version, **self.parameters}

    def answer_v2(self, scores: NDArray[np.float32]) -> V2Answer:
        return V2Answer({"score": ("FP32", scores)}, self.version, self.parameters)

    @staticmethod
    def tensors_v2(request: V2Request) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return request.tensors["features"], request.tensors["history"]


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
