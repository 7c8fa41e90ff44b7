"""A student of the served ensemble: few small trees that have learned its scores of the training rows.

A score says more than a label: how close to fraud a genuine row is. Trained scores and columns in, a booster out, and
its graph. On all the model's columns it stands in for the ensemble (edge, comparison); on the features alone it is the
first model of a cascade. Why trees and not a small network: docs/adr/0017-a-cascade-of-trees-first.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray

from components.optimise.export import export_columns
from components.optimise.measure import Scorer
from components.optimise.rows import CHUNK_ROWS
from components.optimise.tree_graph import append_tree_score, write_tree_graph
from millrace.fraud.boosting import BASE_SCORE
from millrace.fraud.features import FEATURE_NAMES
from millrace.fraud.model import FraudModel
from millrace.fraud.training_set import TrainingSet

if TYPE_CHECKING:
    from xgboost import Booster

STUDENT: Final = "student.onnx"
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class TreesConfig:
    """The size of a student; `rounds` 0 makes none."""

    rounds: int
    depth: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """How students are taught."""

    full: TreesConfig = TreesConfig(rounds=120, depth=5, learning_rate=0.1)
    """Reads all columns: a tenth of the ensemble's parameters at most."""
    cheap: TreesConfig = TreesConfig(rounds=100, depth=4, learning_rate=0.1)
    """Reads the features alone: the first model of a cascade."""
    label_share: float = 0.2
    """Of a target that the label decides; the rest is the teacher's score."""
    negative_share: float = 0.5
    """Share of genuine rows that is learned from, each weighing as many as it stands for."""
    row_share: float = 0.8
    column_share: float = 0.6
    min_child_weight: float = 8.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Lessons:
    """What students learn from: n training rows."""

    columns: Floats  # [n, K], the features first
    target: Floats  # [n] in [0, 1]
    weight: Floats  # [n]


def lessons(model: FraudModel, data: TrainingSet, teacher: Scorer, config: StudentConfig) -> Lessons:
    """Training rows with what the teacher says of them, histories a chunk at a time. No other rows are looked at."""
    rows = data.rows_of("train")
    rng = np.random.default_rng(config.seed)
    rows = rows[(data.label[rows] == 1) | ((data.label[rows] == 0) & (rng.random(len(rows)) < config.negative_share))]
    columns, scores = [], []
    for at in range(0, len(rows), CHUNK_ROWS):
        features, history = data.batch(rows[at : at + CHUNK_ROWS], model.spec.sequence_length)
        with torch.inference_mode():
            columns.append(model.columns(torch.from_numpy(features), torch.from_numpy(history)).numpy())
        scores.append(teacher(features, history))
    label = data.label[rows].astype(np.float32)
    target = (1.0 - config.label_share) * np.concatenate(scores) + config.label_share * label
    weight = np.where(label == 1, 1.0, 1.0 / config.negative_share).astype(np.float32)
    return Lessons(np.concatenate(columns), target, weight)


def distil(lessons: Lessons, trees: TreesConfig, config: StudentConfig, columns: int | None = None) -> Booster:
    """Trees on the first `columns` columns (default: all); the same rows and seed give the same trees."""
    from xgboost import DMatrix, train

    parameters = {
        "objective": "binary:logistic",
        "base_score": BASE_SCORE,
        "tree_method": "hist",
        "max_depth": trees.depth,
        "eta": trees.learning_rate,
        "subsample": config.row_share,
        "colsample_bytree": config.column_share,
        "min_child_weight": config.min_child_weight,
        "seed": config.seed,
        "nthread": 1,  # more of them wait by spinning
    }
    matrix = DMatrix(lessons.columns[:, :columns], lessons.target, weight=lessons.weight)
    return train(parameters, matrix, trees.rounds)


def write_student(model: FraudModel, booster: Booster, features: Floats, history: Floats, path: Path) -> None:
    """The graph of a student of all columns: raw features and history → score; the rows are only traced."""
    export_columns(model, features, history, path)
    append_tree_score(path, booster)


def write_cheap(booster: Booster, path: Path) -> None:
    """The graph of a student of the features: features → score."""
    write_tree_graph(booster, len(FEATURE_NAMES), path)


def node_count(booster: Booster) -> int:
    """Nodes of all trees: what a network would call parameters."""
    return sum(dump.count("\n") for dump in booster.get_dump())
