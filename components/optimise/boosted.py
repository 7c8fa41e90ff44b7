"""Boosted trees beside the deep model, in one graph: what either has not learned, the other often has.

Trees read the model's own columns (the features, and what it derives from the history), so both know the same. They are
fitted on the training rows; how much they say is chosen on the validation rows. Their node in the graph:
`tree_graph.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from components.optimise.measure import ranking
from components.optimise.rows import ValidationRows, chunks
from millrace.fraud.model import FraudModel
from millrace.fraud.training_set import TrainingSet

if TYPE_CHECKING:
    from xgboost import Booster

CHUNK_ROWS: Final = 8192
WEIGHTS: Final = (0.0, 0.25, 0.5, 0.75)
"""Shares of the trees' logit that are tried; 0 serves the deep model alone."""
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
    min_child_weight: float = 8.0
    negative_share: float = 0.25
    """Share of genuine rows that is learned from, each weighing as many as it stands for."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trees:
    """A fitted booster and its share of the served logit."""

    booster: Booster
    weight: float

    def logits(self, columns: Floats) -> Floats:
        """columns[B, K] → [B]."""
        margins: Floats = self.booster.inplace_predict(columns, predict_type="margin").astype(np.float32)
        return margins


def fit(model: FraudModel, data: TrainingSet, config: BoostConfig) -> Booster:
    """Trees on the training rows; the same rows and seed give the same trees."""
    from xgboost import DMatrix, train

    rows = data.rows_of("train")
    rng = np.random.default_rng(config.seed)
    rows = rows[(data.label[rows] == 1) | (rng.random(len(rows)) < config.negative_share)]
    label = data.label[rows]
    weight = np.where(label == 1, 1.0, 1.0 / config.negative_share)
    parameters = {
        "objective": "binary:logistic",
        "base_score": BASE_SCORE,
        "tree_method": "hist",
        "max_depth": config.depth,
        "eta": config.learning_rate,
        "subsample": config.row_share,
        "colsample_bytree": config.column_share,
        "min_child_weight": config.min_child_weight,
        "seed": config.seed,
        "nthread": 1,  # more of them wait by spinning
    }
    return train(parameters, DMatrix(columns_of(model, data, rows), label, weight=weight), config.rounds)


@torch.inference_mode()
def columns_of(model: FraudModel, data: TrainingSet, rows: NDArray[np.int64]) -> Floats:
    """What the model encodes of rows[B]: [B, K]."""
    parts = []
    for at in range(0, len(rows), CHUNK_ROWS):
        features, history = data.batch(rows[at : at + CHUNK_ROWS], model.spec.sequence_length)
        parts.append(model.columns(torch.from_numpy(features), torch.from_numpy(history)).numpy())
    return np.concatenate(parts)


def choose_trees(
    model: FraudModel, data: TrainingSet, rows: ValidationRows, config: BoostConfig
) -> tuple[Trees | None, dict[str, Any]]:
    """The trees to serve beside the model (None: none), and the validation average precision of each weight tried."""
    if config.rounds < 1:
        return None, {}
    booster = fit(model, data, config)
    tried: dict[float, float | None] = {}
    parts = [_logits(model, booster, features, history) for features, history in chunks(rows)]
    deep, boosted = (np.concatenate(logits) for logits in zip(*parts, strict=True))
    for weight in WEIGHTS:
        mixed = (1.0 - weight) * deep + weight * boosted
        tried[weight] = ranking(rows.judged, 1.0 / (1.0 + np.exp(-mixed)))
    best = max(WEIGHTS, key=lambda weight: tried[weight] or 0.0)
    chosen = Trees(booster, best) if best and tried[best] is not None else None
    return chosen, {"weight": best if chosen else 0.0, "average_precision": tried, "rounds": config.rounds}


@torch.inference_mode()
def _logits(model: FraudModel, booster: Booster, features: Floats, history: Floats) -> tuple[Floats, Floats]:
    """What network and trees say of B rows, once for all weights."""
    inputs = torch.from_numpy(features), torch.from_numpy(history)
    return model(*inputs).numpy(), Trees(booster, 1.0).logits(model.columns(*inputs).numpy())
