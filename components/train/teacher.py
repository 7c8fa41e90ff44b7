"""What boosted trees expect of every training row that were fitted on other days: softer than a label.

A third of all fraud cannot be told from the rest by anything known at the time. A network that is shown such labels as
they are learns some of them by heart; the share of them that trees expect leaves it less to learn by heart. Off unless
`teacher_share` is set: what it brings is not settled (docs/model.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.train.core import TrainConfig
from millrace.atomic import replacing_file
from millrace.errors import NotFound
from millrace.fraud.boosting import BoostConfig, columns_of, fitted, logits, sampled
from millrace.fraud.model import FraudModel
from millrace.fraud.training_set import TrainingSet

EXPECTED: Final = "expected.npy"
PARTS: Final = 3
"""Stretches of days; what is expected of one comes from trees fitted on the others."""
TREES: Final = BoostConfig(rounds=200, negative_share=0.25, min_child_weight=8.0)


def expected_logits(data: TrainingSet, config: TrainConfig, trees: BoostConfig = TREES) -> NDArray[np.float32]:
    """[T] of the training rows, in their order; no row's label has a part in its own."""
    rows = data.rows_of("train")
    label = data.label[rows]
    columns = columns_of(FraudModel(config.model.spec()).eval(), data, rows)
    kept, part = sampled(label, trees), np.arange(len(rows)) * PARTS // len(rows)
    result = np.empty(len(rows), np.float32)
    for number in range(PARTS):
        learned, asked = kept & (part != number), part == number
        result[asked] = logits(fitted(columns[learned], label[learned], trees), columns[asked])
    return result


def write_expected(data: TrainingSet, config: TrainConfig, folder: Path) -> None:
    """`expected.npy` in a job folder, once; nothing where labels alone are learned."""
    if not config.teacher_share or (folder / EXPECTED).is_file():
        return
    with replacing_file(folder / EXPECTED) as aside, aside.open("wb") as file:
        np.save(file, expected_logits(data, config))


def read_expected(folder: Path, config: TrainConfig) -> NDArray[np.float32] | None:
    """What `write_expected` left; None where labels alone are learned. Raises NotFound for a job without it."""
    if not config.teacher_share:
        return None
    path = folder / EXPECTED
    if not path.is_file():
        raise NotFound(f"teacher_share is {config.teacher_share}, but there is no {path}. Start the job by `train`.")
    expected: NDArray[np.float32] = np.load(path, allow_pickle=False)
    return expected
