"""What a model of a quantity has to beat: a constant, a linear model and a tuned XGBoost on the same scalar features.

A training set in, predictions of its test rows out; the workload's own baselines come beside these.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.evaluate.baselines import XGBOOST, Answer, Baseline, Rows, fitted, learned, own, tuned
from components.evaluate.config import QuantityLimits
from millrace.errors import InvalidInput
from millrace.judge.rows import Floats
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import log

CONSTANT: Final = "constant"
LINEAR: Final = "linear"


def fit_baselines(
    data: TrainingSet, test_rows: Rows, limits: QuantityLimits, threads: int = 2, seed: int = 0
) -> dict[str, Baseline]:
    """Those of the task and the workload's own, by name; raises InvalidInput without training rows."""
    if not len(data.rows_of("train")):
        raise InvalidInput("there are no training rows: nothing can be learned. Train on more days.")

    result = {
        CONSTANT: fitted(_constant, data, test_rows, _loss),
        LINEAR: learned(_linear(data), {}, data, test_rows, _loss),
        XGBOOST: tuned(partial(_xgboost, data, seed), data, test_rows, _loss, limits, threads),
        **own(data, test_rows, _loss),
    }
    for name, baseline in result.items():
        log("baseline", name=name, validation_mae=baseline.validation_loss, **baseline.parameters)
    return result


def _constant(data: TrainingSet, rows: Rows) -> Floats:
    """The median: no constant has a smaller absolute error."""
    return np.full(len(rows), float(np.median(data.label[data.rows_of("train")])))


def _linear(data: TrainingSet) -> Answer:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    train = data.rows_of("train")
    # Counts and distances have long tails: they are given both as they are and as logarithms.
    widened = _widened(data.features[train])
    scaler = StandardScaler().fit(widened)
    model = Ridge(alpha=1.0).fit(scaler.transform(widened), data.label[train])

    def answer(features: NDArray[np.float32]) -> Floats:
        predicted: Floats = model.predict(scaler.transform(_widened(features))).astype(np.float64)
        return predicted

    return answer


def _xgboost(data: TrainingSet, seed: int, parameters: dict[str, Any]) -> Answer:
    from xgboost import XGBRegressor

    train = data.rows_of("train")
    model = XGBRegressor(**parameters, objective="reg:squarederror", random_state=seed)
    model.fit(data.features[train], data.label[train])
    return lambda features: model.predict(features).astype(np.float64)


def _widened(features: NDArray[np.float32]) -> NDArray[np.float32]:
    squashed = np.sign(features) * np.log1p(np.abs(features))
    return np.concatenate([features, squashed], axis=1)


def _loss(label: NDArray[Any], predicted: NDArray[Any]) -> float:
    """The mean absolute error; NaN without rows."""
    return float(np.abs(predicted - label).mean()) if len(label) else float("nan")
