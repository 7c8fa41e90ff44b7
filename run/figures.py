"""What a backtest says of a test window, by the workload's task: which rows count, and the figures of their outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millrace.installed import Workload
from millrace.judge import ranking, regression
from millrace.workload import Task

Outputs = Mapping[str, NDArray[np.float32]]
"""`score`, and of a quantity `low` and `high`: [B] each."""
Figures = dict[str, float]
"""What a table shows of a window, in its order; NaN where a figure does not exist."""


def figures_of(
    workload: Workload, rows: pa.Table, ids: NDArray[np.int64], outputs: Outputs, test_start: date, days: int, k: int
) -> Figures:
    """Figures of the test window, `days` long.

    `rows`: its events with the columns that judging reads, and those before it that tell which units are known already.
    `outputs` are of the events `ids`; `k` units a day are reviewed, where they are.
    """
    at = pc.index_in(rows[workload.schema.EVENT_ID], pa.array(ids)).fill_null(-1).to_numpy()
    found = {name: np.where(at >= 0, values[at], np.nan) for name, values in outputs.items()}
    if workload.task is Task.REGRESSION:
        return _of_quantity(workload, rows, found, test_start, days)
    return _of_classes(workload, rows, found["score"], test_start, days, k)


def mean_of(folds: Sequence[Figures]) -> Figures:
    """Means over folds of what is no count."""
    names = [name for name in folds[0] if name not in ("rows", "positives")]
    return {name: math.fsum(fold[name] for fold in folds) / len(folds) for name in names}


def _of_classes(
    workload: Workload, rows: pa.Table, scores: NDArray[np.float64], test_start: date, days: int, k: int
) -> Figures:
    found = ranking.protocol_metrics(rows, scores, test_start, workload.judging.COLUMNS, k, days)
    figures = {"rows": found.rows, "positives": found.positives, "AUC": found.auc_roc, "AP": found.average_precision}
    if workload.task is Task.RANKING:
        figures[f"{workload.judging.UNIT_NOUN[0]} precision@{k}"] = found.unit_precision
    return figures


def _of_quantity(
    workload: Workload, rows: pa.Table, outputs: Mapping[str, NDArray[np.float64]], test_start: date, days: int
) -> Figures:
    columns = workload.judging.COLUMNS
    mask = regression.labelled_rows(rows, test_start, columns, days)
    predictions = regression.Predictions(**{name: outputs[at][mask] for name, at in _PREDICTIONS.items()})
    found = regression.figures(regression.measured(rows, mask, columns), predictions)
    unit = workload.schema.LABEL.unit
    return {
        "rows": int(mask.sum()),
        f"MAE, {unit}": found["mae"],
        f"RMSE, {unit}": found["rmse"],
        f"bias, {unit}": found["bias"],
        "coverage": found["coverage"],
        f"interval, {unit}": found["interval_width"],
    }


_PREDICTIONS = {"point": "score", "low": "low", "high": "high"}
