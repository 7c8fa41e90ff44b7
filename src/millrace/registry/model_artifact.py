"""A model as a folder: how its graph is run. What its `model.json` says is `model_spec.py`'s.

`ModelArtifact.open(folder).score(features, history)` is all that evaluation, the predictor and the drift detector need:
hashes verified, feature contract checked, ONNX Runtime underneath, no torch. Of a quantity `predict` gives the interval
too. The network is the workload's `model` part; the graphs are made by `components/optimise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from millrace.errors import ArtifactCorrupt, InvalidInput, SchemaMismatch
from millrace.installed import Workload
from millrace.lake.manifest import Manifest
from millrace.registry.model_spec import MODEL_JSON, Cascade, ModelSpec, generation_of
from millrace.settings import settings

Floats = NDArray[np.float32]
Outputs = Mapping[str, Floats]
"""What a model answers, by the names of `ModelSpec.outputs`: [B] each; `score`, and of a quantity `low` and `high`."""

CHUNK_ROWS: Final = 1024
"""Rows per call of the graph: bounds its working memory, whatever the caller hands over."""

STAGES: Final = ("full", "cheap", "cache")
"""Where a score came from; stages are arrays of places in here. Only a server has a cache."""
FULL, CHEAP, CACHE = range(3)


class ModelArtifact:
    """An opened model: hashes verified, contract checked, graph loaded and warm. Threads may share it."""

    def __init__(
        self,
        manifest: Manifest,
        spec: ModelSpec,
        session: onnxruntime.InferenceSession,
        cheap: onnxruntime.InferenceSession | None = None,
    ) -> None:
        if spec.decides and spec.decision_threshold is None:
            raise InvalidInput(f"model {manifest.id} has no decision_threshold in {MODEL_JSON}. Run optimise first.")
        self.manifest = manifest
        self.spec = spec
        self._session = session
        self._cheap = cheap
        self._outputs = spec.outputs

    @classmethod
    def open(
        cls, folder: Path | str, *, threads: int = 1, served_file: str | None = None, cascade: bool | None = None
    ) -> ModelArtifact:
        """Load the model in `folder`; `served_file` names another of its graphs, which then scores alone.

        `cascade` says whether its cheap first model is used, where it has one (default: MILLRACE_CASCADE). Raises
        NotFound, ArtifactCorrupt (a file differs from the manifest) and SchemaMismatch (other features, not one figure
        a row).
        """
        folder = Path(folder)
        # The folder may be a copy (a promoted version, /mnt/models): the place it is in counts, not the recorded one.
        manifest = Manifest.lying_in(folder, "model")
        manifest.verify()
        manifest.path(MODEL_JSON)
        spec = ModelSpec.read(folder)
        spec.require_contract()

        name = served_file or spec.served_file
        if name is None:
            raise InvalidInput(f"model {manifest.id} has no graph to serve: it is trained only. Run optimise first.")

        session = load_graph(manifest.path(name), threads)
        _require_graph(session, name, set(spec.inputs), spec.outputs)
        cheap = None
        if spec.cascade is not None and served_file is None and (settings().cascade if cascade is None else cascade):
            cheap = load_graph(manifest.path(spec.cascade.file), threads)
            _require_graph(cheap, spec.cascade.file, {"features"}, ("score",))

        artifact = cls(manifest, spec, session, cheap)
        artifact.warm_up()
        return artifact

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def generation(self) -> str:
        """The generation of state that this version reads; empty where no `promote` has let it in."""
        return generation_of(self.manifest)

    @property
    def workload(self) -> Workload:
        return self.spec.of_workload()

    @property
    def decision_threshold(self) -> float:
        """A score at or above it is flagged for review; raises InvalidInput for a task without decisions."""
        if self.spec.decision_threshold is None:
            raise InvalidInput(f"model {self.id} is a {self.spec.task}: no threshold makes a decision of its scores")
        return float(self.spec.decision_threshold)

    @property
    def cascade(self) -> Cascade | None:
        """The cheap first model in use."""
        return None if self._cheap is None else self.spec.cascade

    def score(self, features: Floats, history: Floats | None = None) -> Floats:
        """`score` of `predict`: scores[B] float32, in [0, 1] of a class, else in the label's unit."""
        return self.predict(features, history)["score"]

    def predict(self, features: Floats, history: Floats | None = None) -> Outputs:
        """features[B, F], and history[B, L, C] where the model reads one, float32, raw → its outputs.

        Raises InvalidInput.
        """
        inputs = self._checked(features, history)
        outputs, _ = self.run(*inputs)

        for name, values in outputs.items():
            if not np.isfinite(values).all():
                row = int(np.flatnonzero(~np.isfinite(values))[0])
                raise InvalidInput(
                    f"row {row}: the {name} is {values[row]}; wanted finite {' and '.join(self.spec.inputs)}"
                )
        return outputs

    def run(self, *inputs: Floats) -> tuple[Outputs, NDArray[np.uint8]]:
        """Outputs and stages[B] of tensors known to be right, unchecked: what a server calls after its own checks."""
        if len(inputs[0]) <= CHUNK_ROWS:
            return self._run(*inputs)
        starts = range(0, len(inputs[0]), CHUNK_ROWS)
        parts = [self._run(*(tensor[start : start + CHUNK_ROWS] for tensor in inputs)) for start in starts]
        outputs = {name: np.concatenate([part[name] for part, _ in parts]) for name in self.spec.outputs}
        return outputs, np.concatenate([stages for _, stages in parts])

    def run_full(self, *inputs: Floats) -> Outputs:
        """`run` by the full model alone, at most CHUNK_ROWS rows."""
        given = {"features": inputs[0]}
        if len(inputs) > 1:
            given["history"] = inputs[1]
        values = self._session.run(self._outputs, given)
        return {"score": values[0]} if len(values) == 1 else dict(zip(self._outputs, values, strict=True))

    def blank(self, rows: int) -> tuple[Floats, ...]:
        """Inputs of so many rows, all 0."""
        spec = self.spec
        features = np.zeros((rows, len(spec.feature_names)), np.float32)
        if not spec.history_channels:
            return (features,)
        return features, np.zeros((rows, spec.sequence_length, len(spec.history_channels)), np.float32)

    def warm_up(self) -> None:
        """Run blank rows, one and a few, so that the first real request does not pay for allocation.

        Raises SchemaMismatch for a graph that does not give one figure a row.
        """
        for rows in (1, 8):
            inputs = self.blank(rows)
            outputs = self.run_full(*inputs)  # the cascade may stop before it
            for name, values in outputs.items():
                if values.shape != (rows,):
                    got = f"{name} of shape {list(values.shape)} for {rows} rows"
                    raise SchemaMismatch(f"model {self.id} gives {got}; wanted [{rows}]. Export it with optimise.")
            self.run(*inputs)

    def _run(self, *inputs: Floats) -> tuple[Outputs, NDArray[np.uint8]]:
        features = inputs[0]
        if len(features) == 0:
            return {name: np.empty(0, np.float32) for name in self.spec.outputs}, np.empty(0, np.uint8)

        band = self.spec.cascade
        if self._cheap is None or band is None:
            return self.run_full(*inputs), np.full(len(features), FULL, np.uint8)

        scores: Floats = self._cheap.run(["score"], {"features": features})[0]
        sure = band.is_sure(scores)
        rows = np.flatnonzero(~sure)
        if len(rows):
            scores[rows] = self.run_full(*(tensor[rows] for tensor in inputs))["score"]
        return {"score": scores}, np.where(sure, CHEAP, FULL).astype(np.uint8)

    def _checked(self, features: Floats, history: Floats | None) -> tuple[Floats, ...]:
        self._check("features", features, (len(self.spec.feature_names),))
        if not self.spec.history_channels:
            if history is not None:
                raise InvalidInput(f"model {self.id} reads no history; wanted features alone")
            return (features,)

        if history is None:
            raise InvalidInput(f"model {self.id} reads a history too; wanted features and history")
        self._check("history", history, (self.spec.sequence_length, len(self.spec.history_channels)))
        if len(features) != len(history):
            raise InvalidInput(f"features has {len(features)} rows and history {len(history)}; wanted as many of each")
        return features, history

    def _check(self, name: str, tensor: NDArray[Any], row_shape: tuple[int, ...]) -> None:
        wanted = f"float32 [B, {', '.join(map(str, row_shape))}]"
        if not isinstance(tensor, np.ndarray):
            raise InvalidInput(f"tensor {name!r} is a {type(tensor).__name__}; wanted {wanted}")
        if tensor.dtype != np.float32 or tensor.shape[1:] != row_shape or tensor.ndim == 0:
            raise InvalidInput(f"tensor {name!r} is {tensor.dtype} {list(tensor.shape)}; wanted {wanted}")


def load_graph(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU with `threads` threads; raises ArtifactCorrupt for a file that is no graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A thread that spins while idle takes a core from the server around it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no base class but Exception
        raise ArtifactCorrupt(f"{path} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}") from error


def _require_graph(session: onnxruntime.InferenceSession, name: str, wanted: set[str], answers: Sequence[str]) -> None:
    inputs = {item.name for item in session.get_inputs()}
    outputs = {item.name for item in session.get_outputs()}
    if inputs != wanted or not outputs.issuperset(answers):
        got = f"inputs {sorted(inputs)} and outputs {sorted(outputs)}"
        reads, gives = ", ".join(sorted(wanted)), ", ".join(answers)
        raise SchemaMismatch(f"{name} has {got}; wanted {reads} → {gives}. Export it with optimise.")
