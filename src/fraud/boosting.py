"""Boosted trees over the columns that the network encodes: fitted beside it, and before it as its teacher.

Training rows in, a booster out; the same rows and seed give the same trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fraud.model import FraudModel
from fraud.training_set import TrainingSet

if TYPE_CHECKING:
    from xgboost import Booster

CHUNK_ROWS: Final = 8192
BASE_SCORE: Final = 0.5
"""XGBoost 3 estimates a base score by default, which costs .08 of average precision on rare frauds."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoostConfig:
    """The trees; `rounds` 0 leaves the deep model alone."""

    rounds: int = 250
    depth: int = 5
    learning_rate: float = 0.05
    row_share: float = 0.8
    column_share: float = 0.6
    min_child_weight: float = 2.0
    negative_share: float = 0.5
    """Share of genuine rows that is learned from, each weighing as many as it stands for."""
    seed: int = 0

    def parameters(self) -> dict[str, Any]:
        """The same in XGBoost's words."""
        return {
            "objective": "binary:logistic",
            "base_score": BASE_SCORE,
            "tree_method": "hist",
            "max_depth": self.depth,
            "eta": self.learning_rate,
            "subsample": self.row_share,
            "colsample_bytree": self.column_share,
            "min_child_weight": self.min_child_weight,
            "seed": self.seed,
            "nthread": 1,  # more of them wait by spinning
        }


def fit(model: FraudModel, data: TrainingSet, config: BoostConfig) -> Booster:
    """Trees on the training rows."""
    rows = data.rows_of("train")
    rows = rows[sampled(data.label[rows], config)]
    return fitted(columns_of(model, data, rows), data.label[rows], config)


def sampled(label: NDArray[np.int8], config: BoostConfig) -> NDArray[np.bool_]:
    """[B] → [B]: every fraud, and a share of the rest."""
    rng = np.random.default_rng(config.seed)
    kept: NDArray[np.bool_] = (label == 1) | (rng.random(len(label)) < config.negative_share)
    return kept


def fitted(columns: Floats, label: NDArray[np.int8], config: BoostConfig) -> Booster:
    """Trees on rows that `sampled` kept: columns[B, K], label[B]."""
    from xgboost import DMatrix, train

    weight = np.where(label == 1, 1.0, 1.0 / config.negative_share)
    return train(config.parameters(), DMatrix(columns, label, weight=weight), config.rounds)


def logits(booster: Booster, columns: Floats) -> Floats:
    """columns[B, K] → [B]."""
    margins: Floats = booster.inplace_predict(columns, predict_type="margin").astype(np.float32)
    return margins


@torch.inference_mode()
def columns_of(model: FraudModel, data: TrainingSet, rows: NDArray[np.int64]) -> Floats:
    """What the model encodes of rows[B]: [B, K]."""
    parts = []
    for at in range(0, len(rows), CHUNK_ROWS):
        features, history = data.batch(rows[at : at + CHUNK_ROWS], model.spec.sequence_length)
        parts.append(model.columns(torch.from_numpy(features), torch.from_numpy(history)).numpy())
    return np.concatenate(parts)
