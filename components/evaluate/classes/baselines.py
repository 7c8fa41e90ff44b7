"""What the model has to beat: logistic regression and a tuned XGBoost on the same scalar features.

A training set in, scores of its test rows out; the workload's own baselines come beside these.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.evaluate.baselines import XGBOOST, Answer, Baseline, Rows, learned, own, tuned
from components.evaluate.config import EvaluateConfig
from millrace.errors import InvalidInput
from millrace.judge.rows import Floats
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import log

LOGISTIC_REGRESSION: Final = "logistic_regression"
BASE_SCORE: Final = 0.5
"""XGBoost 3 estimates a base score by default, which costs .08 of average precision where positives are rare."""


def fit_baselines(
    data: TrainingSet, test_rows: Rows, config: EvaluateConfig, threads: int = 2, seed: int = 0
) -> dict[str, Baseline]:
    """Both and the workload's own, by name; raises InvalidInput when the training rows hold one class only."""
    if len(np.unique(data.label[data.rows_of("train")])) < 2:
        raise InvalidInput("the training rows hold one class only: nothing can be learned. Train on more days.")

    result = {
        LOGISTIC_REGRESSION: learned(_logistic_regression(data), {"C": 1.0}, data, test_rows, _loss),
        XGBOOST: tuned(partial(_xgboost, data, seed), data, test_rows, _loss, config, threads),
        **own(data, test_rows, _loss),
    }
    for name, baseline in result.items():
        log("baseline", name=name, validation_ap=-baseline.validation_loss, **baseline.parameters)
    return result


def _logistic_regression(data: TrainingSet) -> Answer:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train = data.rows_of("train")
    # Counts and sums have long tails; their logarithms suit a linear model better, so the bar is higher.
    squashed = _squashed(data.features[train])
    scaler = StandardScaler().fit(squashed)
    model = LogisticRegression(C=1.0, max_iter=100, tol=1e-3)
    model.fit(scaler.transform(squashed), data.label[train])

    def answer(features: NDArray[np.float32]) -> Floats:
        return _positive(model.predict_proba(scaler.transform(_squashed(features))))

    return answer


def _xgboost(data: TrainingSet, seed: int, parameters: dict[str, Any]) -> Answer:
    from xgboost import XGBClassifier

    train = data.rows_of("train")
    model = XGBClassifier(**parameters, base_score=BASE_SCORE, random_state=seed)
    model.fit(data.features[train], data.label[train])
    return lambda features: _positive(model.predict_proba(features))


def _positive(probabilities: NDArray[Any]) -> Floats:
    """[B, 2] → [B]: how likely each row is positive."""
    return probabilities[:, 1].astype(np.float64)


def _squashed(features: NDArray[np.float32]) -> NDArray[np.float32]:
    squashed: NDArray[np.float32] = np.sign(features) * np.log1p(np.abs(features))
    return squashed


def _loss(label: NDArray[Any], scores: NDArray[Any]) -> float:
    """Average precision, below zero; 0 where there is no positive."""
    from sklearn.metrics import average_precision_score

    return -float(average_precision_score(label, scores)) if label.any() else 0.0
