"""Boosted trees beside the network, in one graph: what either has not learned, the other often has.

Trees read the network's own columns (the features, and what it derives from a history), so both know the same. They
are fitted on the training rows (`millrace.tabular.boosting`); how much they say is chosen on the validation rows. Their
node in the graph: `tree_graph.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from components.optimise.rows import ValidationRows, chunks
from millrace.lake.training_set import TrainingSet
from millrace.tabular.boosting import BoostConfig, Boosted, fit
from millrace.tabular.network import Network
from millrace.tabular.rows import Floats, Inputs
from millrace.workload import Task

WEIGHTS: Final = (0.0, 0.25, 0.5, 0.75)
"""Shares of the trees' answer that are tried; 0 serves the network alone."""


@dataclass(frozen=True, slots=True)
class Trees:
    """Fitted trees and their share of what is served: of the logit, or of the quantity."""

    boosted: Boosted
    weight: float


def choose_trees(
    network: Network, data: TrainingSet, rows: ValidationRows, config: BoostConfig
) -> tuple[Trees | None, dict[str, Any]]:
    """The trees to serve beside the network (None: none), and what was found of each weight tried."""
    if config.rounds < 1:
        return None, {}

    boosted = fit(network, data, config)
    parts = [_answers(network, boosted, inputs) for inputs in chunks(rows)]
    alone, grown = (np.concatenate(part) for part in zip(*parts, strict=True))

    tried: dict[float, float | None] = {}
    losses: dict[float, float] = {}
    for weight in WEIGHTS:
        served = (1.0 - weight) * alone + weight * grown
        if data.workload.task is not Task.REGRESSION:
            served = (1.0 / (1.0 + np.exp(-served))).astype(np.float32)
        answers = served.astype(np.float64)
        figure = network.figure(rows.label, answers)
        tried[weight] = None
        if math.isfinite(figure):
            tried[weight] = figure
            losses[weight] = network.loss_of(rows.label, answers)

    best = min(losses, key=lambda weight: losses[weight], default=0.0)
    chosen = Trees(boosted, best) if best else None
    return chosen, {"weight": best, network.watched.name: tried, "rounds": config.rounds}


def refitted(network: Network, data: TrainingSet, trees: Trees | None, config: BoostConfig) -> Trees | None:
    """The same share of trees that have seen the validation rows too, where the configuration says so."""
    if trees is None or not config.refit:
        return trees
    return Trees(fit(network, data, config, ("train", "validation")), trees.weight)


@torch.inference_mode()
def _answers(network: Network, boosted: Boosted, inputs: Inputs) -> tuple[Floats, Floats]:
    """What network and trees say of B rows, once for all weights: [B] each."""
    tensors = [torch.from_numpy(tensor) for tensor in inputs]
    answers = network(*tensors).numpy()
    columns = network.columns(*tensors).numpy()
    return answers if answers.ndim == 1 else answers[:, 0], boosted.margins(columns)
