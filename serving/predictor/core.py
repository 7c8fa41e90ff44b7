"""Score validated tensors with a model artifact: requests of both protocols in, scores out. No sockets, no KServe.

The history of a request may be longer than the model reads (the entity's whole state): its newest part is taken, so
that a caller need not know which model answers. Who runs requests together is `batching.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from millrace.registry.model_artifact import STAGES, Floats, ModelArtifact, Outputs
from serving.protocol import V2Answer, V2Request, decode_v1
from serving.reads import Reads
from serving.tensors import TensorSpec, kind, numbers, require_finite

FLOAT32: Final = np.dtype(np.float32)

Inputs = tuple[Floats, ...]
"""features[B, F], and history[B, L, C] where the model reads one."""
Answer = tuple[Outputs, NDArray[np.uint8]]
"""Outputs by name, [B] each, and where each row's came from: places in `millrace.registry.model_artifact.STAGES`."""


class Scorer:
    """One model version: what it wants, and its scores."""

    def __init__(self, artifact: ModelArtifact, version: str) -> None:
        spec = artifact.spec
        self.artifact = artifact
        self.version = version
        self.length = spec.sequence_length
        self.longest = spec.history_length
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("features", "FP32", (-1, len(spec.feature_names))),)
        self.reads = Reads(spec.feature_service, artifact.generation)
        self.parameters: dict[str, Any] = dict(self.reads.as_parameters())
        """What goes out with every answer: what it reads, the threshold to decide with, the N to make features with."""
        if spec.decides:
            self.parameters["decision_threshold"] = artifact.decision_threshold
        if spec.history_channels:
            self.inputs += (TensorSpec("history", "FP32", (-1, -1, len(spec.history_channels))),)
        if self.longest:
            self.parameters["history_length"] = self.longest
        self.outputs = (
            *(TensorSpec(name, "FP32", (-1,)) for name in spec.outputs),
            TensorSpec("stage", "BYTES", (-1,)),
        )
        self._names = tuple(tensor.name for tensor in self.inputs)
        self._ends = spec.outputs[1:]

    def prepare(self, *inputs: Floats) -> Inputs:
        """features[B, F], and history[B, L … N, C], as the graph reads them; raises InvalidInput."""
        for spec, tensor in zip(self.inputs, inputs, strict=True):
            if tensor.dtype != FLOAT32 or tensor.ndim != len(spec.shape) or tensor.shape[-1] != spec.shape[-1]:
                raise InvalidInput(f"tensor {spec.name!r} is {tensor.dtype} {list(tensor.shape)}; wanted {spec}")
        require_finite(inputs[0], "features")
        return inputs if len(inputs) == 1 else self._with_history(*inputs)

    def run(self, *inputs: Floats) -> Answer:
        """Prepared rows, of one request or of several → their outputs, which the caller checks to be finite."""
        features, *history = inputs
        return self.artifact.run(features, *map(np.ascontiguousarray, history))

    def fault(self, outputs: Outputs, rows: int) -> str:
        """What keeps the outputs of so many rows from being scores; empty where nothing does."""
        for name, values in outputs.items():
            if values.shape != (rows,):
                return f"{name} of shape {list(values.shape)} for {rows} rows"
            if not np.isfinite(values).all():
                return f"{name} that is not finite"

        score = outputs["score"]
        if self.artifact.spec.decides and not ((score >= 0) & (score <= 1)).all():
            return "score outside [0, 1]"
        if self._ends and not (outputs["low"] <= outputs["high"]).all():
            return "low above high"
        return ""

    def score(self, *inputs: Floats) -> Answer:
        """`prepare`, then `run`, for a caller without a batcher; raises InvalidInput."""
        outputs, stages = self.run(*self.prepare(*inputs))
        for name, values in outputs.items():
            require_finite(values, name)
        return outputs, stages

    def tensors_v1(self, document: Mapping[str, Any]) -> Inputs:
        """A V1 document of `{"features": [F], "history": [[C] × L]}` → features[B, F], history[B, L, C]."""
        instances = decode_v1(document)
        for row, instance in enumerate(instances):
            _require_fields(row, instance, self._names)
        return tuple(_stack([instance[spec.name] for instance in instances], spec) for spec in self.inputs)

    def answer_v1(self, outputs: Outputs, stages: NDArray[np.uint8]) -> dict[str, Any]:
        names = [STAGES[stage] for stage in stages.tolist()]
        ends = {name: outputs[name].tolist() for name in self._ends}
        predictions = outputs["score"].tolist()
        return {"predictions": predictions, **ends, "stages": names, "model_version": self.version, **self.parameters}

    def answer_v2(self, outputs: Outputs, stages: NDArray[np.uint8]) -> V2Answer:
        tensors: dict[str, tuple[str, NDArray[Any]]] = {"score": ("FP32", outputs["score"])}
        for name in self._ends:
            tensors[name] = "FP32", outputs[name]
        tensors["stage"] = "BYTES", _NAMES[stages]
        return V2Answer(tensors, self.version, self.parameters)

    def tensors_v2(self, request: V2Request) -> Inputs:
        return tuple(request.tensors[name] for name in self._names)

    def _with_history(self, features: Floats, history: Floats) -> Inputs:
        if len(features) != len(history):
            raise InvalidInput(f"features has {len(features)} rows and history {len(history)}; wanted as many of each")
        if not self.length <= history.shape[1] <= self.longest:
            raise InvalidInput(
                f"history has {history.shape[1]} steps; wanted {self.length} to {self.longest}, "
                "newest last, padded in front with 0"
            )
        require_finite(history, "history")
        return features, history[:, -self.length :]


_NAMES: Final = np.array(STAGES, dtype=object)


def _require_fields(row: int, instance: Any, names: tuple[str, ...]) -> None:
    if not isinstance(instance, dict):
        raise InvalidInput(f"instance {row} is a {kind(instance)}; wanted an object with {' and '.join(names)}")
    odd = instance.keys() ^ set(names)
    if odd:
        name = min(odd)
        state = "unknown" if name in instance else "missing"
        raise InvalidInput(f"instance {row}: field {name!r} is {state}; wanted {' and '.join(names)}")


def _stack(rows: list[Any], spec: TensorSpec) -> NDArray[np.float32]:
    array: NDArray[np.float32] = numbers(rows, FLOAT32, spec.name)
    wanted = spec.shape
    if array.ndim != len(wanted) or array.shape[-1] != wanted[-1]:
        raise InvalidInput(f"{spec.name} of the instances stack to {list(array.shape)}; wanted {spec}")
    return array
