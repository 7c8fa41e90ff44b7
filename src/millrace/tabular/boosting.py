"""Boosted trees over the columns that a network encodes: fitted beside it, and before it as its teacher.

Training rows in, a booster out; the same rows and seed give the same trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from millrace.tabular.network import Label, Network
from millrace.tabular.rows import Floats, Rows, inputs_of

if TYPE_CHECKING:
    from xgboost import Booster

CHUNK_ROWS: Final = 8192

LOGISTIC: Final = "binary:logistic"
"""Trees of a logit; labels in [0, 1]."""
SQUARED_ERROR: Final = "reg:squarederror"
"""Trees of a mean."""
ABSOLUTE_ERROR: Final = "reg:absoluteerror"
"""Trees of a median."""

BASE_SCORES: Final = {LOGISTIC: 0.5, SQUARED_ERROR: 0.0, ABSOLUTE_ERROR: 0.0}
"""Trees add up from 0: a logit, or a distance from the middle of the labels.

XGBoost 3 estimates a base score by default, which costs .08 of average precision where positives are rare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoostConfig:
    """The trees; `rounds` 0 leaves the network alone."""

    objective: str = LOGISTIC
    rounds: int = 250
    depth: int = 5
    learning_rate: float = 0.05
    row_share: float = 0.8
    column_share: float = 0.6
    min_child_weight: float = 2.0
    negative_share: float = 0.5
    """Share of the negative rows of classes that is learned from; each weighs as many as it stands for."""
    refit: bool = False
    """Once their share is chosen, fit them again with the validation rows too: what is served then knows the last days.
    Figures, interval and reference window stay those of the trees that had not seen these rows."""
    seed: int = 0

    def parameters(self) -> dict[str, Any]:
        """The same in XGBoost's words."""
        return {
            "objective": self.objective,
            "base_score": BASE_SCORES[self.objective],
            "tree_method": "hist",
            "max_depth": self.depth,
            "eta": self.learning_rate,
            "subsample": self.row_share,
            "colsample_bytree": self.column_share,
            "min_child_weight": self.min_child_weight,
            "seed": self.seed,
            "nthread": 1,  # more of them wait by spinning
        }


@dataclass(frozen=True, slots=True)
class Boosted:
    """A fitted booster and what its sum of leaves begins at."""

    booster: Booster
    middle: float
    """0 of a logit; of a quantity the median of the training labels."""

    def margins(self, columns: Floats) -> Floats:
        """columns[B, K] → [B]: logits, or the quantity."""
        found: Floats = self.booster.inplace_predict(columns, predict_type="margin").astype(np.float32)
        return found + np.float32(self.middle) if self.middle else found


def fit(network: Network, data: Rows, config: BoostConfig, splits: Sequence[str] = ("train",)) -> Boosted:
    """Trees on the rows of these splits."""
    rows = np.concatenate([data.rows_of(split) for split in splits])
    rows = rows[sampled(data.label[rows], config)]
    return fitted(columns_of(network, data, rows), data.label[rows], config)


def sampled(label: Label, config: BoostConfig) -> NDArray[np.bool_]:
    """[B] → [B]: every positive, and a share of the rest; of a quantity all."""
    if config.objective != LOGISTIC:
        return np.ones(len(label), bool)
    rng = np.random.default_rng(config.seed)
    kept: NDArray[np.bool_] = (label == 1) | (rng.random(len(label)) < config.negative_share)
    return kept


def fitted(columns: Floats, label: Label, config: BoostConfig) -> Boosted:
    """Trees on rows that `sampled` kept: columns[B, K], label[B]."""
    from xgboost import DMatrix, train

    if config.objective == LOGISTIC:
        weight = np.where(label == 1, 1.0, 1.0 / config.negative_share)
        return Boosted(train(config.parameters(), DMatrix(columns, label, weight=weight), config.rounds), 0.0)
    middle = float(np.median(label))
    return Boosted(train(config.parameters(), DMatrix(columns, label - middle), config.rounds), middle)


@torch.inference_mode()
def columns_of(network: Network, data: Rows, rows: NDArray[np.int64]) -> Floats:
    """What the network encodes of rows[B]: [B, K]."""
    parts = []
    for at in range(0, len(rows), CHUNK_ROWS):
        inputs = inputs_of(data, rows[at : at + CHUNK_ROWS], network.sequence_length)
        parts.append(network.columns(*map(torch.from_numpy, inputs)).numpy())
    return np.concatenate(parts)
