"""What the model has to beat: logistic regression and a tuned XGBoost on the same scalar features.

A training set in, scores of its test rows out. Hyper-parameters are chosen on the validation split; test rows are only
scored.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.evaluate.config import BaselineParameters, EvaluateConfig
from millrace.errors import InvalidInput
from millrace.judge.rows import Floats
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import log

LOGISTIC_REGRESSION, XGBOOST = "logistic_regression", "xgboost"
BASE_SCORE: Final = 0.5
"""XGBoost 3 estimates a base score by default, which costs .08 of average precision where positives are rare."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A fitted baseline on the test rows."""

    scores: Floats  # [T] in [0, 1]
    parameters: dict[str, Any]
    validation_average_precision: float


def fit_baselines(
    data: TrainingSet, test_rows: NDArray[np.int64], config: EvaluateConfig, threads: int = 2, seed: int = 0
) -> dict[str, Baseline]:
    """Both and the workload's own, by name; raises InvalidInput when the training rows hold one class only."""
    train, validation = _split(data, "train"), _split(data, "validation")
    if len(np.unique(train[1])) < 2:
        raise InvalidInput("the training rows hold one class only: nothing can be learned. Train on more days.")
    test = data.features[test_rows]
    result = {
        LOGISTIC_REGRESSION: _logistic_regression(train, validation, test),
        XGBOOST: _xgboost(train, validation, test, config, threads, seed),
        **{name: _own(fit, data, test_rows) for name, fit in data.workload.judging.BASELINES.items()},
    }
    for name, baseline in result.items():
        log("baseline", name=name, validation_ap=baseline.validation_average_precision, **baseline.parameters)
    return result


Split = tuple[NDArray[np.float32], NDArray[np.int8]]
"""features[N, F] and label[N]."""


def _split(data: TrainingSet, name: str) -> Split:
    rows = data.rows_of(name)
    return data.features[rows], data.label[rows]


def _logistic_regression(train: Split, validation: Split, test: NDArray[np.float32]) -> Baseline:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    # Counts and sums have long tails; their logarithms suit a linear model better, so the bar is higher.
    scaler = StandardScaler().fit(_squashed(train[0]))
    model = LogisticRegression(C=1.0, max_iter=100, tol=1e-3)
    model.fit(scaler.transform(_squashed(train[0])), train[1])
    held_out, scores = (model.predict_proba(scaler.transform(_squashed(x)))[:, 1] for x in (validation[0], test))
    return Baseline(scores.astype(np.float64), {"C": 1.0}, _average_precision(validation[1], held_out))


def _xgboost(
    train: Split, validation: Split, test: NDArray[np.float32], config: EvaluateConfig, threads: int, seed: int
) -> Baseline:
    from xgboost import XGBClassifier

    def fitted(point: BaselineParameters) -> tuple[float, Floats]:
        model = XGBClassifier(
            **point.model_dump(),
            base_score=BASE_SCORE,
            tree_method="hist",
            max_bin=config.baseline_max_bin,
            n_jobs=1,
            random_state=seed,
        ).fit(*train)
        held_out, scores = (model.predict_proba(x)[:, 1].astype(np.float64) for x in (validation[0], test))
        return _average_precision(validation[1], held_out), scores

    # One thread a model: threads inside XGBoost wait by spinning, which on a busy machine costs five times the CPU.
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(fitted, config.baseline_grid))
    best = max(range(len(found)), key=lambda place: found[place][0])
    return Baseline(found[best][1], config.baseline_grid[best].model_dump(), found[best][0])


def _own(
    fit: Callable[[TrainingSet, NDArray[np.int64]], Floats], data: TrainingSet, rows: NDArray[np.int64]
) -> Baseline:
    validation = data.rows_of("validation")
    return Baseline(fit(data, rows), {}, _average_precision(data.label[validation], fit(data, validation)))


def _squashed(features: NDArray[np.float32]) -> NDArray[np.float32]:
    squashed: NDArray[np.float32] = np.sign(features) * np.log1p(np.abs(features))
    return squashed


def _average_precision(label: NDArray[np.int8], scores: Floats) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(label, scores)) if label.any() else 0.0
