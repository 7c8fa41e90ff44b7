"""What a cascade saves and costs on the judged rows: the model with it, against the model without."""

from __future__ import annotations

from dataclasses import dataclass

from components.evaluate.test_week import CHUNK_ROWS, TestWeek, model_scores
from millrace.judge.bootstrap import Interval, difference
from millrace.judge.ranking import average_precision
from millrace.judge.rows import Floats
from millrace.registry.model_artifact import CHEAP, ModelArtifact


@dataclass(frozen=True, slots=True)
class CascadeFigures:
    """A first model that answers the clear cases, judged on the test week."""

    saved_share: float
    """Of the rows, answered by the cheap model."""
    full_average_precision: float
    """Of the full model alone."""
    gain: Interval
    """Average precision with the cascade, less that of the full model."""


def measure_cascade(model: ModelArtifact, week: TestWeek, scores: Floats, weights: Floats) -> CascadeFigures | None:
    """scores[J]: the model's, as served; None where it has no cascade in use."""
    if model.cascade is None:
        return None
    alone = ModelArtifact.open(model.manifest.folder, cascade=False)
    full = model_scores(alone, week.data, week.judged_rows)
    return CascadeFigures(
        _saved_share(model, week),
        average_precision(week.judged, full).item(),
        difference(week.judged, scores, full, weights, average_precision),
    )


def _saved_share(model: ModelArtifact, week: TestWeek) -> float:
    rows, length = week.judged_rows, model.spec.sequence_length
    cheap = 0
    for at in range(0, len(rows), CHUNK_ROWS):
        _, stages = model.run(*week.data.batch(rows[at : at + CHUNK_ROWS], length))
        cheap += int((stages == CHEAP).sum())
    return cheap / len(rows)
