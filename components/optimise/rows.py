"""The rows that a model is optimised on: validation rows to judge by, training rows to fix ranges by. No test rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.optimise.measure import Scorer
from millrace.errors import InvalidInput
from millrace.judge.ranking import Judged, judged
from millrace.lake.training_set import TrainingSet, is_known
from millrace.tabular.rows import Inputs, inputs_of
from millrace.workload import Task

CHUNK_ROWS: Final = 1024


@dataclass(frozen=True, slots=True)
class ValidationRows:
    """The V rows everything here is judged on."""

    inputs: Inputs
    label: NDArray[Any]  # [V]
    judged: Judged | None
    """The same rows as classes are judged; None of a quantity."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def ranked(self) -> Judged:
        """`judged` of classes; there must be some."""
        assert self.judged is not None
        return self.judged


def validation_rows(data: TrainingSet, length: int) -> ValidationRows:
    """Inputs and truth of the labelled validation rows; raises InvalidInput when there are none."""
    numbers = data.rows_of("validation")
    numbers = numbers[is_known(data.label[numbers])]
    if not len(numbers):
        raise InvalidInput(f"training set {data.manifest.id} has no labelled validation rows. Assemble more days.")

    inputs = inputs_of(data, numbers, length)
    label = data.label[numbers]
    if data.workload.task is Task.REGRESSION:
        return ValidationRows(inputs, label, None)

    columns = data.workload.judging.COLUMNS
    table = data.table(columns.names).take(pa.array(numbers))
    return ValidationRows(inputs, label, judged(table, np.ones(len(numbers), bool), columns))


def calibration_rows(data: TrainingSet, length: int, count: int) -> Inputs:
    """`count` training rows that fix the ranges of an int8 graph, spread evenly over the training days."""
    numbers = data.rows_of("train")
    if not len(numbers):
        raise InvalidInput(f"training set {data.manifest.id} has no training rows. Assemble more days.")
    return inputs_of(data, numbers[spread(len(numbers), count)], length)


def score_all(scorer: Scorer, rows: ValidationRows) -> NDArray[np.float32]:
    """scores[V], a bounded number of rows at a time."""
    return np.concatenate([scorer(*inputs) for inputs in chunks(rows)])


def chunks(rows: ValidationRows) -> Iterator[Inputs]:
    """The rows in order, CHUNK_ROWS at a time."""
    for at in range(0, len(rows), CHUNK_ROWS):
        yield tuple(tensor[at : at + CHUNK_ROWS] for tensor in rows.inputs)


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` places out of `count`, evenly spread."""
    return np.linspace(0, count - 1, min(wanted, count)).astype(np.int64)
