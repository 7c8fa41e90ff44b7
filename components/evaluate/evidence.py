"""What is measured about a model whatever its task, and the steps that measuring has in common.

Each task adds its own figures, comparisons, slices and stress tests; the rules read nothing but evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from components.evaluate.latency import Latency
from components.evaluate.window import Rival, model_answers
from millrace.installed import Workload
from millrace.judge.bootstrap import Interval
from millrace.judge.regression import Predictions
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import track
from millrace.registry.model_artifact import ModelArtifact
from millrace.workload import WhatIf

SLICE_RESAMPLES: Final = 60


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature, and how far it tells the label by itself: 0 nothing, 1 everything."""

    name: str
    skill: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The model against another, on the same rows and resamples."""

    gain: Interval
    """What the model is better by, as its task counts it; above 0 favours the model."""
    other: dict[str, float]
    """The other's own figures."""


C = TypeVar("C", bound=Comparison, covariant=True)
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Champion(Generic[C]):
    """The comparison with the model that serves now, or why there is none."""

    id: str
    comparison: C | None
    why_not: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence(Generic[C, S, T]):
    """What the gate, the report and the model card are made from: comparisons C, figures S of slices, T of stresses."""

    figures: dict[str, Interval]
    baselines: dict[str, C]
    champion: Champion[C] | None
    slices: dict[str, S]
    stresses: dict[str, T]
    latency: Latency
    baseline_parameters: dict[str, Any]
    best_feature: Feature

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON; a figure that does not exist is null."""
        document: dict[str, Any] = plain(asdict(self))
        return document

    def others(self) -> dict[str, C]:
        """Every comparison that was made, by the other's name: the baselines, then the champion."""
        found = dict(self.baselines)
        if self.champion is not None and self.champion.comparison is not None:
            found[f"champion {self.champion.id}"] = self.champion.comparison
        return found

    def metrics(self) -> dict[str, float]:
        """Figures, the ends of their intervals and latency as single numbers."""
        values = {name: figure.value for name, figure in self.figures.items()}
        for name, figure in self.figures.items():
            values |= {f"{name}_low": figure.low, f"{name}_high": figure.high}
        values |= {"latency_p50_ms": self.latency.p50_ms, "latency_p99_ms": self.latency.p99_ms}
        return {name: round(value, 6) for name, value in values.items()}


def best_feature(skill: Callable[[NDArray[np.float32]], float], data: TrainingSet, rows: NDArray[np.int64]) -> Feature:
    """The feature that tells the label best by itself, on these rows; `skill` is given one feature's values[B]."""
    values = data.features[rows]
    skills = {name: skill(values[:, place]) for place, name in enumerate(data.workload.features.FEATURE_NAMES)}
    known = {name: value for name, value in skills.items() if math.isfinite(value)}
    best = max(known, key=lambda name: known[name], default="")
    return Feature(best, known.get(best, 0.0))


def against(rival: Rival | None, compare: Callable[[Predictions], C]) -> Champion[C] | None:
    """The comparison with what serves now; `compare` is given its answers."""
    if rival is None:
        return None
    if rival.answers is None:
        return Champion(rival.id, None, rival.why_not)
    return Champion(rival.id, compare(rival.answers))


def under_stress(model: ModelArtifact, workload: Workload, events: WhatIf) -> Iterator[tuple[str, WhatIf, Predictions]]:
    """Each stress of the workload by name, the events as it makes them, and what the model then says of them."""
    for name, stress in track(workload.judging.STRESSES.items(), "stress tests"):
        changed = stress(events)
        yield name, changed, asked(model, changed)


def asked(model: ModelArtifact, events: WhatIf) -> Predictions:
    """[B] what the model says of these events."""
    return model_answers(model, *events.tensors(model.spec.sequence_length))


def plain(value: Any) -> Any:
    """The value as JSON holds it: what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
