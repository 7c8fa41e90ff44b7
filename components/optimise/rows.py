"""The rows that a model is optimised on: validation rows to judge by, training rows to fix ranges by. No test rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.optimise.measure import Scorer
from fraud.training_set import TrainingSet
from millrace.errors import InvalidInput
from millrace.judge.ranking import Judged, judged
from millrace.settings import settings
from millrace.workload import load

CHUNK_ROWS: Final = 1024

Inputs = tuple[NDArray[np.float32], NDArray[np.float32]]
"""features[B, F], history[B, L, C]."""


@dataclass(frozen=True, slots=True)
class ValidationRows:
    """The V rows everything here is judged on."""

    features: NDArray[np.float32]  # [V, F]
    history: NDArray[np.float32]  # [V, L, C]
    judged: Judged


def validation_rows(data: TrainingSet, length: int) -> ValidationRows:
    """Inputs and truth of the labelled validation rows; raises InvalidInput when there are none."""
    numbers = data.rows_of("validation")
    numbers = numbers[data.label[numbers] >= 0]
    if not len(numbers):
        raise InvalidInput(f"training set {data.manifest.id} has no labelled validation rows. Assemble more days.")
    features, history = data.batch(numbers, length)
    columns = load(settings().workload).judging.COLUMNS
    table = data.table(columns.names).take(pa.array(numbers))
    return ValidationRows(features, history, judged(table, np.ones(len(numbers), bool), columns))


def calibration_rows(data: TrainingSet, length: int, count: int) -> Inputs:
    """`count` training rows that fix the ranges of an int8 graph, spread evenly over the training days."""
    numbers = data.rows_of("train")
    if not len(numbers):
        raise InvalidInput(f"training set {data.manifest.id} has no training rows. Assemble more days.")
    return data.batch(numbers[spread(len(numbers), count)], length)


def score_all(scorer: Scorer, rows: ValidationRows) -> NDArray[np.float32]:
    """scores[V], a bounded number of rows at a time."""
    return np.concatenate([scorer(features, history) for features, history in chunks(rows)])


def chunks(rows: ValidationRows) -> Iterator[Inputs]:
    """The rows in order, CHUNK_ROWS at a time."""
    for at in range(0, len(rows.features), CHUNK_ROWS):
        yield rows.features[at : at + CHUNK_ROWS], rows.history[at : at + CHUNK_ROWS]


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` places out of `count`, evenly spread."""
    return np.linspace(0, count - 1, min(wanted, count)).astype(np.int64)
