"""What a model's `model.json` says, typed; a server needs no more to know what a model reads and answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound, SchemaMismatch
from millrace.installed import Workload, workload_of
from millrace.lake.manifest import Manifest
from millrace.workload import Task

MODEL_JSON: Final = "model.json"
GENERATION: Final = "generation"
"""Fact of an `online_store` and of a `skew_check` as a step hands them over, and of a version's copy of a model."""


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
    """What `model.json` says. `served_file` and what a task has besides are absent until `optimise` has run."""

    name: str
    workload: str
    """Whose features it reads and whose events it answers for."""
    task: Task
    outputs: tuple[str, ...] = ("score",)
    """What the graph answers; the first is the score."""
    feature_service: str
    """Name and version of the features it was trained on."""
    feature_names: tuple[str, ...]
    """F scalar inputs, in order."""
    history_channels: tuple[str, ...] = ()
    """C channels of the history, in order; empty for a model that reads features alone."""
    history_length: int = 0
    """N: events of the recent view that the features were made from; 0 where no view is recent."""
    sequence_length: int = 0
    """L ≤ N: the newest events that the model reads."""
    decision_threshold: float | None = None
    """The score from which a ranking flags for review."""
    served_file: str | None = None
    """The graph to serve."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Hyper-parameters of the architecture and of the training."""
    seeds: dict[str, Any] = field(default_factory=dict)
    optimisation: dict[str, Any] = field(default_factory=dict)
    """What `optimise` measured: variants, parity, threshold, calibration."""
    cascade: Cascade | None = None
    """The cheap first model, where there is one."""
    variant: dict[str, Any] | None = None
    """The document of the workload, where that is a variant."""

    @classmethod
    def read(cls, folder: Path) -> ModelSpec:
        """Read `folder/model.json`, unknown keys ignored; raises NotFound, or ArtifactCorrupt naming what is wrong."""
        path = folder / MODEL_JSON
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            known = {item.name for item in dataclasses.fields(cls)}
            spec = cls(**{key: value for key, value in document.items() if key in known})
            cascade = None if spec.cascade is None else Cascade.read(spec.cascade)
            task = Task(spec.task)
        except FileNotFoundError as error:
            raise NotFound(
                f"no model at {folder}: {MODEL_JSON} is missing. Give the folder of a model version."
            ) from error
        except (AttributeError, TypeError, ValueError) as error:  # JSONDecodeError and InvalidInput are ValueErrors
            raise ArtifactCorrupt(f"{path} is not a model description: {error}") from error

        return dataclasses.replace(
            spec,
            task=task,
            cascade=cascade,
            outputs=tuple(spec.outputs),
            feature_names=tuple(spec.feature_names),
            history_channels=tuple(spec.history_channels),
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the graph reads."""
        return ("features", "history") if self.history_channels else ("features",)

    @property
    def decides(self) -> bool:
        """Whether a score becomes a decision, by a threshold."""
        return self.task is Task.RANKING

    def of_workload(self) -> Workload:
        """The workload as it was when the model was trained."""
        return workload_of({"workload": self.workload, "variant": self.variant})

    def require_contract(self) -> None:
        """Raise SchemaMismatch unless this code computes the very features the model was trained on."""
        contract = self.of_workload().features
        _require_equal("feature_service", self.feature_service, contract.FEATURE_SERVICE)
        _require_equal("feature_names", self.feature_names, contract.FEATURE_NAMES)
        _require_equal("history_channels", self.history_channels, contract.HISTORY_CHANNELS)


def generation_of(model: Manifest) -> str:
    """The generation of state that a promoted model reads; empty where an older release promoted it, or nobody did."""
    return str(model.facts.get(GENERATION, ""))


def require_generation(model: Manifest) -> str:
    """Like `generation_of`; raises NotFound where there is none."""
    generation = generation_of(model)
    if not generation:
        raise NotFound(
            f"the model in {model.uri} names no generation of state: an older release promoted it, when a run filled "
            "what served. Promote it again: make run with the same data, which trains nothing anew."
        )
    return generation


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
