"""What is examined and what comes of it, whatever the task: the one form that `classes` and `quantity` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from components.evaluate.config import Limits
from millrace.judge.gates import Verdict
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
    accept: Mapping[str, str]
    """Rule → why its failure is accepted."""
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
