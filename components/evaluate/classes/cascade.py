"""What a cascade saves and costs on the judged rows: the model with it, against the model without."""

from __future__ import annotations

from dataclasses import dataclass

from components.evaluate.window import CHUNK_ROWS, TestWindow, model_scores
from millrace.judge.bootstrap import Interval, difference
from millrace.judge.ranking import Judged, average_precision
from millrace.judge.rows import Floats
from millrace.registry.model_artifact import CHEAP, ModelArtifact


@dataclass(frozen=True, slots=True)
class CascadeFigures:
    """A first model that answers the clear cases, judged on the test window."""

    saved_share: float
    """Share of the rows that the cheap model answers."""
    full_average_precision: float
    """Average precision of the full model alone."""
    gain: Interval
    """Average precision with the cascade, less that of the full model."""


def measure_cascade(
    model: ModelArtifact, window: TestWindow[Judged], scores: Floats, weights: Floats
) -> CascadeFigures | None:
    """scores[J]: the model's, as served; None where it has no cascade in use."""
    if model.cascade is None:
        return None
    alone = ModelArtifact.open(model.manifest.fetch(), cascade=False)
    full = model_scores(alone, window.data, window.judged_rows)
    return CascadeFigures(
        _saved_share(model, window),
        average_precision(window.judged, full).item(),
        difference(window.judged, scores, full, weights, average_precision),
    )


def _saved_share(model: ModelArtifact, window: TestWindow[Judged]) -> float:
    rows, length = window.judged_rows, model.spec.sequence_length
    cheap = 0
    for at in range(0, len(rows), CHUNK_ROWS):
        _, stages = model.run(*window.data.batch(rows[at : at + CHUNK_ROWS], length))
        cheap += int((stages == CHEAP).sum())
    return cheap / len(rows)
