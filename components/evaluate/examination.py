"""What is examined and what comes of it, whatever the task: the one form that `classes` and `quantity` share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from components.evaluate.config import Limits
from components.evaluate.latency import Latency
from millrace.judge.bootstrap import Interval
from millrace.judge.gates import Rule, Verdict
from millrace.lake.manifest import Manifest
from millrace.registry.model_artifact import ModelArtifact

GATE: Final = "evaluation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model that is to be judged."""

    artifact: ModelArtifact
    training_set: Manifest
    champion: Manifest | None
    """What serves now, where that is another model."""
    lake: Path
    limits: Limits
    review_capacity: int
    """Units that can be looked at in a day; no matter where nothing is reviewed."""
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """Figures, verdict and texts, ready to be written."""

    verdict: Verdict
    document: dict[str, Any]
    """Everything that was measured, as JSON."""
    metrics: dict[str, float]
    """Single figures, for whoever tracks runs."""
    facts: dict[str, Any]
    """What later steps want to know of the evaluation besides."""
    scores: pa.Table
    """Event id and score of every test row."""
    model_card: str
    write_page: Callable[[Path], None]
    """Draws the report: not for those who only want figures."""


def metrics_of(figures: Mapping[str, Interval], latency: Latency) -> dict[str, float]:
    """Figures, the ends of their intervals and latency as single numbers."""
    values = {name: figure.value for name, figure in figures.items()}
    ends = {f"{name}_{end}": getattr(f, end) for name, f in figures.items() for end in ("low", "high")}
    times = {"latency_p50_ms": latency.p50_ms, "latency_p99_ms": latency.p99_ms}
    return {name: round(value, 6) for name, value in (values | ends | times).items()}


def plain(value: Any) -> Any:
    """As JSON: what is not finite does not exist."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def family(name: str) -> str:
    """A rule's name without what it was applied to: `slice_auc_roc[weekend]` → `slice_auc_roc`."""
    return name.partition("[")[0]


def each(kind: str, values: dict[str, float], comparison: str, limits: dict[str, float], detail: str) -> list[Rule]:
    """One rule per name; a limit without its value fails, and so does a value without its limit."""
    return [
        Rule(f"{kind}[{name}]", values.get(name), comparison, limits[name], detail)
        if name in limits
        else Rule(f"{kind}[{name}]", None, comparison, 0.0, "no limit among those of the workload")
        for name in dict.fromkeys([*values, *limits])
    ]
