"""What the predictor's answer must be, so that it can be answered, explained and said in an event. No I/O."""

from __future__ import annotations

import numpy as np

from millrace.errors import Unavailable
from millrace.events.prediction import MAX_TEXT, STAGES
from millrace.installed import Workload
from millrace.workload import Task
from serving.transformer.core import Scored


def require_fit(workload: Workload, scored: Scored, history_length: int) -> None:
    """Raise Unavailable when the model gives other figures than are answered, or wants features of another length."""
    missing = sorted(workload.exchange.ANSWER.keys() - scored.outputs.keys())
    if missing or (workload.task is Task.RANKING and scored.decision_threshold is None):
        what = missing[0] if missing else "decision_threshold"
        raise Unavailable(f"the predictor's answer is not a score of {workload.name!r}: it has no {what}")
    if workload.recent is not None and scored.history_length != history_length:
        raise Unavailable(
            f"MILLRACE_HISTORY_LENGTH of the transformer is {history_length}; model version {scored.model_version} "
            f"was trained with {scored.history_length}. Start the transformer with that."
        )
    _require_sayable(workload, scored)


def _require_sayable(workload: Workload, scored: Scored) -> None:
    """Raise Unavailable for what no prediction event may say (`millrace.events.prediction`)."""
    version, outputs = scored.model_version, scored.outputs
    if not 0 < len(version) <= MAX_TEXT or not version.isprintable():
        raise Unavailable(f"the predictor's answer names version {version[:60]!r}; wanted a short text")
    if not set(scored.stages) <= set(STAGES) or len(scored.stages) not in (0, len(scored.scores)):
        raise Unavailable(f"the predictor names {len(scored.stages)} stages; wanted {', '.join(STAGES)} for every row")
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise Unavailable(f"model version {version} answers what is no finite number. Roll it back.")
    if workload.task is Task.REGRESSION:
        sound = (outputs["low"] <= outputs["high"]).all()
    else:
        sound = ((outputs["score"] >= 0) & (outputs["score"] <= 1)).all()
    if not sound:
        raise Unavailable(f"model version {version} answers what is no score of {workload.name!r}. Roll it back.")


def require_rows(scored: Scored, rows: int) -> None:
    """Raise Unavailable when the predictor gave another number of scores than it got rows."""
    for name, values in scored.outputs.items():
        if values.shape != (rows,):
            raise Unavailable(f"the predictor gave {name} of shape {list(values.shape)} for {rows} rows")
