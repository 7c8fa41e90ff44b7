"""What a model of a quantity has to beat: a constant, a linear model and a tuned XGBoost on the same scalar features.

A training set in, predictions of its test rows out. Hyper-parameters are chosen on the validation split; test rows are
only predicted. The workload's own baselines come beside these.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.evaluate.config import BaselineParameters, QuantityLimits
from millrace.errors import InvalidInput
from millrace.judge.regression import Predictions
from millrace.judge.rows import Floats
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import log

CONSTANT: Final = "constant"
LINEAR: Final = "linear"
XGBOOST: Final = "xgboost"

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A fitted baseline on the test rows."""

    predictions: Predictions  # [T]
    parameters: dict[str, Any]
    validation_mae: float


def fit_baselines(
    data: TrainingSet, test_rows: Rows, limits: QuantityLimits, threads: int = 2, seed: int = 0
) -> dict[str, Baseline]:
    """Those of the task and the workload's own, by name; raises InvalidInput without training rows."""
    if not len(data.rows_of("train")):
        raise InvalidInput("there are no training rows: nothing can be learned. Train on more days.")
    own = {name: _own(fit, data, test_rows) for name, fit in data.workload.judging.BASELINES.items()}
    result = {
        CONSTANT: _own(_constant, data, test_rows),
        LINEAR: _own(_linear, data, test_rows),
        XGBOOST: _xgboost(data, test_rows, limits, threads, seed),
        **own,
    }
    for name, baseline in result.items():
        log("baseline", name=name, validation_mae=baseline.validation_mae, **baseline.parameters)
    return result


def _own(fit: Callable[[TrainingSet, Rows], Floats], data: TrainingSet, test_rows: Rows) -> Baseline:
    validation = data.rows_of("validation")
    return Baseline(Predictions.of(fit(data, test_rows)), {}, _mae(data, validation, fit(data, validation)))


def _constant(data: TrainingSet, rows: Rows) -> Floats:
    """The median: no constant has a smaller absolute error."""
    return np.full(len(rows), float(np.median(data.label[data.rows_of("train")])))


def _linear(data: TrainingSet, rows: Rows) -> Floats:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    train = data.rows_of("train")
    # Counts and distances have long tails: they are given both as they are and as logarithms.
    scaler = StandardScaler().fit(_widened(data.features[train]))
    model = Ridge(alpha=1.0).fit(scaler.transform(_widened(data.features[train])), data.label[train])
    predicted: Floats = model.predict(scaler.transform(_widened(data.features[rows]))).astype(np.float64)
    return predicted


def _xgboost(data: TrainingSet, test_rows: Rows, limits: QuantityLimits, threads: int, seed: int) -> Baseline:
    from xgboost import XGBRegressor

    train, validation = data.rows_of("train"), data.rows_of("validation")

    def fitted(point: BaselineParameters) -> tuple[float, Floats]:
        model = XGBRegressor(
            **point.model_dump(),
            objective="reg:squarederror",
            tree_method="hist",
            max_bin=limits.baseline_max_bin,
            n_jobs=1,
            random_state=seed,
        ).fit(data.features[train], data.label[train])
        held_out = model.predict(data.features[validation])
        return _mae(data, validation, held_out), model.predict(data.features[test_rows]).astype(np.float64)

    # One thread a model: threads inside XGBoost wait by spinning, which on a busy machine costs five times the CPU.
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(fitted, limits.baseline_grid))
    best = min(range(len(found)), key=lambda place: found[place][0])
    return Baseline(Predictions.of(found[best][1]), limits.baseline_grid[best].model_dump(), found[best][0])


def _mae(data: TrainingSet, rows: Rows, predicted: NDArray[Any]) -> float:
    return float(np.abs(predicted - data.label[rows]).mean()) if len(rows) else float("nan")


def _widened(features: NDArray[np.float32]) -> NDArray[np.float32]:
    squashed = np.sign(features) * np.log1p(np.abs(features))
    return np.concatenate([features, squashed], axis=1)
