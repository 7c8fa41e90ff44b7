"""What is counted of answered rows, by the version that scored them: scores, decisions, entities never seen."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from millrace.observe.telemetry import MODEL_FAULTS, PREDICTIONS, QUANTITIES, SCORES, SCORES_REPEATED, UNSEEN
from serving.transformer import core


class Figures:
    """Remembers the last score of each version, so that a model that always says the same is seen soon."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}

    def scored(self, part: core.Part, degraded: bool) -> None:
        """The rows that one model scored."""
        scored = part.scored
        model = part.model_name, scored.model_version
        if model not in self._last:
            for begins_at_nothing in (MODEL_FAULTS, SCORES_REPEATED):  # else its first count is no growth to Prometheus
                _bound(begins_at_nothing, *model)
        seen = QUANTITIES if "low" in scored.outputs else SCORES
        for score in scored.scores.tolist():
            _bound(seen, *model).observe(score)
            _bound(PREDICTIONS, *model, core.decision(score, scored) or "none", degraded).inc()
            if self._last.get(model) == score:
                _bound(SCORES_REPEATED, *model).inc()
            self._last[model] = score

    def unseen(self, rows: Sequence[Sequence[str]]) -> None:
        """[B] entities of each row that no view knows."""
        for entities in rows:
            for entity in entities:
                _bound(UNSEEN, entity).inc()


@functools.lru_cache(256)
def _bound(metric: Any, *labels: Any) -> Any:
    """`metric.labels(…)`, which takes a lock and makes text of the labels each time."""
    return metric.labels(*labels)
