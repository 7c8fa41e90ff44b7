"""How baselines are fitted whatever the task: learned on the training rows, chosen on the validation split.

A training set in, answers about its test rows out. Which baselines there are, and what makes one better, is `classes`'
and `quantity`'s; the workload brings its own beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.evaluate.config import EvaluateConfig
from millrace.judge.regression import Predictions
from millrace.judge.rows import Floats
from millrace.lake.training_set import TrainingSet

XGBOOST: Final = "xgboost"

Rows = NDArray[np.int64]
"""Row numbers in the training set."""
Fit = Callable[[TrainingSet, Rows], Floats]
"""Learns on the training rows, and answers these rows."""
Answer = Callable[[NDArray[np.float32]], Floats]
"""features[B, F] → [B], of something that was learned."""
Loss = Callable[[NDArray[Any], NDArray[Any]], float]
"""(label[B], answers[B]) → what the better baseline has less of."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A fitted baseline on the test rows."""

    answers: Predictions  # [T]
    parameters: dict[str, Any]
    validation_loss: float
    answer: Answer | None = None
    """Asked about other features; None for one that reads more than those."""


def own(data: TrainingSet, test_rows: Rows, loss: Loss) -> dict[str, Baseline]:
    """The workload's own baselines, by name."""
    return {name: fitted(fit, data, test_rows, loss) for name, fit in data.workload.judging.BASELINES.items()}


def fitted(fit: Fit, data: TrainingSet, test_rows: Rows, loss: Loss) -> Baseline:
    """A baseline with nothing to choose."""
    validation = data.rows_of("validation")
    held_out = loss(data.label[validation], fit(data, validation))
    return Baseline(Predictions.of(fit(data, test_rows)), {}, held_out)


def learned(answer: Answer, parameters: dict[str, Any], data: TrainingSet, test_rows: Rows, loss: Loss) -> Baseline:
    """A baseline that was learned once and is asked about both splits."""
    validation = data.rows_of("validation")
    held_out = loss(data.label[validation], answer(data.features[validation]))
    return Baseline(Predictions.of(answer(data.features[test_rows])), parameters, held_out, answer)


def tuned(
    learn: Callable[[dict[str, Any]], Answer],
    data: TrainingSet,
    test_rows: Rows,
    loss: Loss,
    config: EvaluateConfig,
    threads: int,
) -> Baseline:
    """The best point of XGBoost's grid; `learn` is given XGBoost's parameters."""
    shared = {"tree_method": "hist", "max_bin": config.baseline_max_bin, "n_jobs": 1}

    def at(point: dict[str, Any]) -> Baseline:
        return learned(learn(point | shared), point, data, test_rows, loss)

    # One thread a model: threads inside XGBoost wait by spinning, which on a busy machine costs five times the CPU.
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(at, [point.model_dump() for point in config.baseline_grid]))
    return min(found, key=lambda baseline: baseline.validation_loss)
