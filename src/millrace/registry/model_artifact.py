"""A model as a folder: what its `model.json` says, and how its graph is run.

`ModelArtifact.open(folder).score(features, history)` is all that evaluation, the predictor and the drift detector need:
hashes verified, feature contract checked, ONNX Runtime underneath, no torch. Weights and architecture live in
`fraud.model`; the graphs are made by `components/optimise`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fraud import features as contract
from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound, SchemaMismatch
from millrace.lake.manifest import Manifest
from millrace.settings import settings

MODEL_JSON: Final = "model.json"
CHUNK_ROWS: Final = 1024
"""Rows per call of the graph: bounds its working memory, whatever the caller hands over."""

STAGES: Final = ("full", "cheap", "cache")
"""Where a score came from; stages are arrays of places in here. Only a server has a cache."""
FULL, CHEAP, CACHE = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascade:
    """A cheap first model that reads `features` alone; the full model scores the rows it is uncertain about."""

    file: str
    """Its graph: features → score, on the scale of the full model."""
    lower: float
    upper: float
    """A cheap score in [lower, upper) is not the answer: the row goes on to the full model."""

    @classmethod
    def read(cls, document: Any) -> Cascade:
        """`cascade` of a `model.json`, further keys ignored; raises InvalidInput naming what is wrong."""
        if not isinstance(document, dict) or not isinstance(document.get("file"), str):
            raise InvalidInput(f"cascade is {document!r}; wanted an object with file, lower and upper")
        lower, upper = document.get("lower"), document.get("upper")
        numbers = all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in (lower, upper))
        if not numbers or not 0.0 <= lower < upper <= 1.0:  # type: ignore[operator]
            raise InvalidInput(f"cascade has lower {lower!r} and upper {upper!r}; wanted 0 ≤ lower < upper ≤ 1")
        return cls(file=document["file"], lower=float(lower), upper=float(upper))  # type: ignore[arg-type]

    def is_sure(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which cheap scores[B] are the answer; one that is not a number is not."""
        sure: NDArray[np.bool_] = (scores < self.lower) | (scores >= self.upper)
        return sure


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """What `model.json` says. `served_file` and `decision_threshold` are absent until `optimise` has run."""

    name: str
    feature_service: str
    """Name and version of the features it was trained on."""
    feature_names: tuple[str, ...]
    """F scalar inputs, in order."""
    history_channels: tuple[str, ...]
    """C channels of the history, in order."""
    history_length: int
    """N: transactions that a customer's state keeps."""
    sequence_length: int
    """L ≤ N: the newest transactions that the model reads."""
    decision_threshold: float | None = None
    """A score at or above it is flagged for review."""
    served_file: str | None = None
    """The graph to serve."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Hyper-parameters of the architecture and of the training."""
    seeds: dict[str, Any] = field(default_factory=dict)
    optimisation: dict[str, Any] = field(default_factory=dict)
    """What `optimise` measured: variants, parity, threshold, calibration."""
    cascade: Cascade | None = None
    """The cheap first model, where there is one."""

    @classmethod
    def read(cls, folder: Path) -> ModelSpec:
        """Read `folder/model.json`, unknown keys ignored; raises NotFound, or ArtifactCorrupt naming what is wrong."""
        path = folder / MODEL_JSON
        try:
            document = json.loads(path.read_text())
            known = {item.name for item in dataclasses.fields(cls)}
            spec = cls(**{key: value for key, value in document.items() if key in known})
            cascade = None if spec.cascade is None else Cascade.read(spec.cascade)
        except FileNotFoundError as error:
            raise NotFound(
                f"no model at {folder}: {MODEL_JSON} is missing. Give the folder of a model version."
            ) from error
        except (AttributeError, TypeError, json.JSONDecodeError, InvalidInput) as error:
            raise ArtifactCorrupt(f"{path} is not a model description: {error}") from error
        names, channels = tuple(spec.feature_names), tuple(spec.history_channels)
        return dataclasses.replace(spec, feature_names=names, history_channels=channels, cascade=cascade)

    def require_contract(self) -> None:
        """Raise SchemaMismatch unless this code computes the very features the model was trained on."""
        _require_equal("feature_service", self.feature_service, contract.FEATURE_SERVICE)
        _require_equal("feature_names", self.feature_names, contract.FEATURE_NAMES)
        _require_equal("history_channels", self.history_channels, contract.HISTORY_CHANNELS)


class ModelArtifact:
    """An opened model: hashes verified, contract checked, graph loaded and warm. Threads may share it."""

    def __init__(
        self,
        manifest: Manifest,
        spec: ModelSpec,
        session: onnxruntime.InferenceSession,
        cheap: onnxruntime.InferenceSession | None = None,
    ) -> None:
        if spec.decision_threshold is None:
            raise InvalidInput(f"model {manifest.id} has no decision_threshold in {MODEL_JSON}. Run optimise first.")
        self.manifest = manifest
        self.spec = spec
        self.decision_threshold = float(spec.decision_threshold)
        self._session = session
        self._cheap = cheap

    @classmethod
    def open(
        cls, folder: Path | str, *, threads: int = 1, served_file: str | None = None, cascade: bool | None = None
    ) -> ModelArtifact:
        """Load the model in `folder`; `served_file` names another of its graphs, which then scores alone.

        `cascade` says whether its cheap first model is used, where it has one (default: MILLRACE_CASCADE). Raises
        NotFound, ArtifactCorrupt (a file differs from the manifest) and SchemaMismatch (other features).
        """
        folder = Path(folder)
        # The folder may be a copy (a promoted version, /mnt/models): the place it is in counts, not the recorded one.
        manifest = dataclasses.replace(Manifest.read(folder, "model"), uri=str(folder))
        manifest.verify()
        manifest.path(MODEL_JSON)
        spec = ModelSpec.read(folder)
        spec.require_contract()
        name = served_file or spec.served_file
        if name is None:
            raise InvalidInput(f"model {manifest.id} has no graph to serve: it is trained only. Run optimise first.")
        session, cheap = load_graph(manifest.path(name), threads), None
        _require_graph(session, name, {"features", "history"})
        if spec.cascade is not None and served_file is None and (settings().cascade if cascade is None else cascade):
            cheap = load_graph(manifest.path(spec.cascade.file), threads)
            _require_graph(cheap, spec.cascade.file, {"features"})
        artifact = cls(manifest, spec, session, cheap)
        artifact.warm_up()
        return artifact

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def cascade(self) -> Cascade | None:
        """The cheap first model in use."""
        return None if self._cheap is None else self.spec.cascade

    def score(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> NDArray[np.float32]:
        """features[B, F], history[B, L, C] float32, raw → scores[B] float32 in [0, 1]; raises InvalidInput."""
        self._check("features", features, (len(self.spec.feature_names),))
        self._check("history", history, (self.spec.sequence_length, len(self.spec.history_channels)))
        if len(features) != len(history):
            raise InvalidInput(f"features has {len(features)} rows and history {len(history)}; wanted as many of each")
        scores, _ = self.run(features, history)
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise InvalidInput(f"row {row}: the score is {scores[row]}; wanted finite features and history")
        return scores

    def run(
        self, features: NDArray[np.float32], history: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Scores[B] and stages[B] of tensors known to be right, unchecked: what a server calls after its own checks."""
        if len(features) <= CHUNK_ROWS:
            return self._run(features, history)
        starts = range(0, len(features), CHUNK_ROWS)
        parts = [self._run(features[s : s + CHUNK_ROWS], history[s : s + CHUNK_ROWS]) for s in starts]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([stages for _, stages in parts])

    def run_full(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> NDArray[np.float32]:
        """`run` by the full model alone, at most CHUNK_ROWS rows."""
        scores: NDArray[np.float32] = self._session.run(["score"], {"features": features, "history": history})[0]
        return scores

    def warm_up(self) -> None:
        """Run blank rows, one and a few, so that the first real request does not pay for allocation."""
        spec = self.spec
        for rows in (1, 8):
            features = np.zeros((rows, len(spec.feature_names)), np.float32)
            history = np.zeros((rows, spec.sequence_length, len(spec.history_channels)), np.float32)
            self.run(features, history)
            self.run_full(features, history)  # the cascade may have stopped before it

    def _run(
        self, features: NDArray[np.float32], history: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        if len(features) == 0:
            return np.empty(0, np.float32), np.empty(0, np.uint8)
        band = self.spec.cascade
        if self._cheap is None or band is None:
            return self.run_full(features, history), np.full(len(features), FULL, np.uint8)
        scores: NDArray[np.float32] = self._cheap.run(["score"], {"features": features})[0]
        sure = band.is_sure(scores)
        rows = np.flatnonzero(~sure)
        if len(rows):
            scores[rows] = self.run_full(features[rows], history[rows])
        return scores, np.where(sure, CHEAP, FULL).astype(np.uint8)

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


def _require_graph(session: onnxruntime.InferenceSession, name: str, wanted: set[str]) -> None:
    inputs = {item.name for item in session.get_inputs()}
    outputs = {item.name for item in session.get_outputs()}
    if inputs != wanted or "score" not in outputs:
        got = f"inputs {sorted(inputs)} and outputs {sorted(outputs)}"
        raise SchemaMismatch(f"{name} has {got}; wanted {', '.join(sorted(wanted))} → score. Export it with optimise.")


def _require_equal(what: str, got: Any, wanted: Any) -> None:
    if got == wanted:
        return
    detail = f"is {got!r}; this code has {wanted!r}"
    if isinstance(got, Sequence) and not isinstance(got, str):
        detail = _difference(got, wanted)
    raise SchemaMismatch(f"model's {what} {detail}. Serve it with the code it was trained by, or train again.")


def _difference(got: Sequence[str], wanted: Sequence[str]) -> str:
    missing, unknown = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
    if missing or unknown:
        return f"lacks {missing} and has unknown {unknown}"
    place = next(i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b)
    return f"differ in order from {place}: {got[place]!r}; this code has {wanted[place]!r}"
