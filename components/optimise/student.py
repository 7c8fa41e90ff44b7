"""A student of the served ensemble: few small trees that have learned its scores of the training rows.

A score says more than a label: how close to a positive another row is. Trained scores and columns in, a booster out,
and its graph. On all the model's columns it stands in for the ensemble (edge, comparison); on the features alone it is
the first model of a cascade. Why trees and not a small network: docs/adr/0017-a-cascade-of-trees-first.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from components.optimise.export import export_columns
from components.optimise.measure import Scorer
from components.optimise.rows import CHUNK_ROWS
from components.optimise.tree_graph import append_tree_score, write_tree_graph
from millrace.lake.training_set import TrainingSet, is_known
from millrace.tabular.boosting import BoostConfig, sampled
from millrace.tabular.network import Network
from millrace.tabular.rows import Floats, Inputs, inputs_of

if TYPE_CHECKING:
    from xgboost import Booster

STUDENT: Final = "student.onnx"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """How students are taught; both learn from the rows that `full` samples."""

    full: BoostConfig = field(default_factory=lambda: BoostConfig(rounds=120, learning_rate=0.1, min_child_weight=8.0))
    """Reads all columns: a tenth of the ensemble's parameters at most. `rounds` 0 makes no students."""
    cheap: BoostConfig = field(
        default_factory=lambda: BoostConfig(rounds=100, depth=4, learning_rate=0.1, min_child_weight=8.0)
    )
    """Reads the features alone: the first model of a cascade."""
    label_share: float = 0.2
    """Share of a target that the label decides; the rest is the teacher's score."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """What students learn from: n training rows."""

    columns: Floats  # [n, K], the features first
    target: Floats  # [n] in [0, 1]
    weight: Floats  # [n]


def lessons(network: Network, data: TrainingSet, teacher: Scorer, config: StudentConfig) -> Lessons:
    """Training rows with what the teacher says of them, histories a chunk at a time. No other rows are looked at."""
    rows = data.rows_of("train")
    rows = rows[is_known(data.label[rows])]
    rows = rows[sampled(data.label[rows], config.full)]

    columns = []
    scores = []
    for at in range(0, len(rows), CHUNK_ROWS):
        inputs = inputs_of(data, rows[at : at + CHUNK_ROWS], network.sequence_length)
        with torch.inference_mode():
            columns.append(network.columns(*map(torch.from_numpy, inputs)).numpy())
        scores.append(teacher(*inputs))

    label = data.label[rows].astype(np.float32)
    target = (1.0 - config.label_share) * np.concatenate(scores) + config.label_share * label
    weight = np.where(label == 1, 1.0, 1.0 / config.full.negative_share).astype(np.float32)
    return Lessons(np.concatenate(columns), target, weight)


def distil(lessons: Lessons, trees: BoostConfig, columns: int | None = None) -> Booster:
    """Trees on the first `columns` columns (default: all); the same rows and seed give the same trees."""
    from xgboost import DMatrix, train

    matrix = DMatrix(lessons.columns[:, :columns], lessons.target, weight=lessons.weight)
    return train(trees.parameters(), matrix, trees.rounds)


def write_student(network: Network, booster: Booster, traced: Inputs, path: Path) -> None:
    """The graph of a student of all columns: raw inputs → score; the rows are only traced."""
    export_columns(network, traced, path)
    append_tree_score(path, booster)


def write_cheap(booster: Booster, features: int, path: Path) -> None:
    """The graph of a student of the features: features → score."""
    write_tree_graph(booster, features, path)


def node_count(booster: Booster) -> int:
    """Nodes of all trees: what a network would call parameters."""
    return sum(dump.count("\n") for dump in booster.get_dump())
