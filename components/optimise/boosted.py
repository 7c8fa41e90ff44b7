"""Boosted trees beside the deep model, in one graph: what either has not learned, the other often has.

Trees read the model's own columns (the features, and what it derives from the history), so both know the same. They are
fitted on the training rows (`fraud.boosting`); how much they say is chosen on the validation rows. Their node
in the graph: `tree_graph.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from components.optimise.measure import ranking
from components.optimise.rows import ValidationRows, chunks
from fraud.boosting import BoostConfig, Floats, fit, logits
from fraud.model import FraudModel
from fraud.training_set import TrainingSet

if TYPE_CHECKING:
    from xgboost import Booster

WEIGHTS: Final = (0.0, 0.25, 0.5, 0.75)
"""Shares of the trees' logit that are tried; 0 serves the deep model alone."""


@dataclass(frozen=True, slots=True)
class Trees:
    """A fitted booster and its share of the served logit."""

    booster: Booster
    weight: float

    def logits(self, columns: Floats) -> Floats:
        """columns[B, K] → [B]."""
        return logits(self.booster, columns)


def choose_trees(
    model: FraudModel, data: TrainingSet, rows: ValidationRows, config: BoostConfig
) -> tuple[Trees | None, dict[str, Any]]:
    """The trees to serve beside the model (None: none), and the validation average precision of each weight tried."""
    if config.rounds < 1:
        return None, {}
    booster = fit(model, data, config)
    tried: dict[float, float | None] = {}
    parts = [_logits(model, booster, features, history) for features, history in chunks(rows)]
    deep, boosted = (np.concatenate(part) for part in zip(*parts, strict=True))
    for weight in WEIGHTS:
        mixed = (1.0 - weight) * deep + weight * boosted
        tried[weight] = ranking(rows.judged, (1.0 / (1.0 + np.exp(-mixed))).astype(np.float32))
    best = max(WEIGHTS, key=lambda weight: tried[weight] or 0.0)
    chosen = Trees(booster, best) if best and tried[best] is not None else None
    return chosen, {"weight": best if chosen else 0.0, "average_precision": tried, "rounds": config.rounds}


@torch.inference_mode()
def _logits(model: FraudModel, booster: Booster, features: Floats, history: Floats) -> tuple[Floats, Floats]:
    """What network and trees say of B rows, once for all weights."""
    inputs = torch.from_numpy(features), torch.from_numpy(history)
    return model(*inputs).numpy(), Trees(booster, 1.0).logits(model.columns(*inputs).numpy())
