"""Boosted trees beside the deep model, in one graph: what either has not learned, the other often has.

Trees read the model's own columns (the features, and what it derives from the history), so both know the same. They are
fitted on the training rows; how much they say is chosen on the validation rows. The graph gets one more node.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

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


def append_trees(graph: Path, trees: Trees) -> None:
    """Make a graph that gives `logit` and `columns` give `score`: the sigmoid of both logits' weighted mean."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    proto = onnx.load(str(graph))
    shares = {"deep_share": 1.0 - trees.weight, "tree_share": trees.weight}
    constants = {name: np.array([value], np.float32) for name, value in shares.items()}
    constants["tree_axis"] = np.array([1], np.int64)
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    proto.graph.node.extend(
        [
            helper.make_node(
                "TreeEnsembleRegressor",
                ["columns"],
                ["tree_margin"],
                domain="ai.onnx.ml",
                n_targets=1,
                **tree_attributes(trees.booster),
            ),
            helper.make_node("Squeeze", ["tree_margin", "tree_axis"], ["tree_logit"]),
            helper.make_node("Mul", ["logit", "deep_share"], ["deep_part"]),
            helper.make_node("Mul", ["tree_logit", "tree_share"], ["tree_part"]),
            helper.make_node("Add", ["deep_part", "tree_part"], ["mixed_logit"]),
            helper.make_node("Sigmoid", ["mixed_logit"], ["score"]),
        ]
    )
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.checker.check_model(proto)
    onnx.save(proto, str(graph))


def tree_attributes(booster: Booster) -> dict[str, Any]:
    """The booster as attributes of ONNX's TreeEnsembleRegressor; its logit is the sum of leaves (BASE_SCORE adds 0)."""
    document = json.loads(booster.save_raw("json"))
    trees = document["learner"]["gradient_booster"]["model"]["trees"]
    parts: dict[str, list[Any]] = {name: [] for name in _ATTRIBUTES}
    for number, tree in enumerate(trees):
        left, right = tree["left_children"], tree["right_children"]
        leaves = [node for node, child in enumerate(left) if child < 0]
        parts["nodes_treeids"] += [number] * len(left)
        parts["nodes_nodeids"] += range(len(left))
        parts["nodes_featureids"] += tree["split_indices"]
        parts["nodes_modes"] += ["LEAF" if child < 0 else "BRANCH_LT" for child in left]
        parts["nodes_values"] += tree["split_conditions"]
        parts["nodes_truenodeids"] += [max(child, 0) for child in left]
        parts["nodes_falsenodeids"] += [max(child, 0) for child in right]
        parts["target_treeids"] += [number] * len(leaves)
        parts["target_nodeids"] += leaves
        parts["target_ids"] += [0] * len(leaves)
        parts["target_weights"] += [tree["split_conditions"][leaf] for leaf in leaves]
    return parts


_ATTRIBUTES: Final = (
    *(f"nodes_{name}" for name in ("treeids", "nodeids", "featureids", "modes", "values")),
    *("nodes_truenodeids", "nodes_falsenodeids"),
    *(f"target_{name}" for name in ("treeids", "nodeids", "ids", "weights")),
)
