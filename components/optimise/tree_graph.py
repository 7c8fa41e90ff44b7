"""Boosted trees as ONNX: one node of a graph, and the nodes that mix their answer with a network's.

A logit is the sum of leaves (BASE_SCORES add nothing); a quantity the sum of leaves and of what they begin at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from components.optimise.boosted import Trees
from components.optimise.interval import Interval

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto
    from xgboost import Booster

OPSET: Final = 20
"""The newest the TorchScript exporter writes, and the first with Gelu as one operator."""
TREE_DOMAIN: Final = "ai.onnx.ml"
TREE_OPSET: Final = 3
IR_VERSION: Final = 9


def append_trees(graph: Path, trees: Trees) -> None:
    """Make a graph that gives `logit` and `columns` give `score`: the sigmoid of both logits' weighted mean."""
    import onnx
    from onnx import helper

    proto = onnx.load(str(graph))
    _add_constants(proto, {"deep_share": 1.0 - trees.weight, "tree_share": trees.weight})
    nodes = [
        *_tree_nodes(proto, trees.boosted.booster, "columns"),
        helper.make_node("Mul", ["logit", "deep_share"], ["deep_part"]),
        helper.make_node("Mul", ["tree_logit", "tree_share"], ["tree_part"]),
        helper.make_node("Add", ["deep_part", "tree_part"], ["mixed_logit"]),
        helper.make_node("Sigmoid", ["mixed_logit"], ["score"]),
    ]
    _finish(proto, nodes, graph)


def finish_quantity(graph: Path, trees: Trees | None, interval: Interval) -> None:
    """Make a graph that gives `answer[B, 3]` (and `columns`, where there are trees) give `score`, `low` and `high`.

    Trees move the score and both ends alike; then the interval is widened or narrowed, at most down to the score.
    """
    import onnx
    from onnx import helper, numpy_helper

    proto = onnx.load(str(graph))
    _add_constants(proto, {"below": interval.below, "above": interval.above})
    nodes = []
    for place, name in enumerate(("point", "lower", "upper")):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(place, np.int64), f"place_{name}"))
        nodes.append(helper.make_node("Gather", ["answer", f"place_{name}"], [name], axis=1))
    if trees:
        _add_constants(proto, {"tree_share": trees.weight, "tree_middle": trees.boosted.middle})
        nodes += [
            *_tree_nodes(proto, trees.boosted.booster, "columns"),
            helper.make_node("Add", ["tree_logit", "tree_middle"], ["tree_point"]),
            helper.make_node("Sub", ["tree_point", "point"], ["apart"]),
            helper.make_node("Mul", ["apart", "tree_share"], ["moved"]),
        ]
    else:
        _add_constants(proto, {"moved": 0.0})
    nodes += [
        helper.make_node("Add", ["point", "moved"], ["score"]),
        helper.make_node("Add", ["lower", "moved"], ["moved_lower"]),
        helper.make_node("Sub", ["moved_lower", "below"], ["wide_lower"]),
        helper.make_node("Min", ["wide_lower", "score"], ["low"]),
        helper.make_node("Add", ["upper", "moved"], ["moved_upper"]),
        helper.make_node("Add", ["moved_upper", "above"], ["wide_upper"]),
        helper.make_node("Max", ["wide_upper", "score"], ["high"]),
    ]
    _finish(proto, nodes, graph, ("score", "low", "high"))


def append_tree_score(graph: Path, booster: Booster) -> None:
    """Make a graph that gives `columns` give `score`: the sigmoid of the trees' logit."""
    import onnx
    from onnx import helper

    proto = onnx.load(str(graph))
    nodes = [*_tree_nodes(proto, booster, "columns"), helper.make_node("Sigmoid", ["tree_logit"], ["score"])]
    _finish(proto, nodes, graph)


def write_tree_graph(booster: Booster, columns: int, path: Path) -> None:
    """A graph of trees alone: features[B, columns] → score[B]."""
    from onnx import TensorProto, helper

    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", columns])
    proto = helper.make_model(
        helper.make_graph([], "trees", [features], []),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    nodes = [*_tree_nodes(proto, booster, "features"), helper.make_node("Sigmoid", ["tree_logit"], ["score"])]
    _finish(proto, nodes, path)


def tree_attributes(booster: Booster) -> dict[str, Any]:
    """The booster as attributes of ONNX's TreeEnsembleRegressor."""
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


def _tree_nodes(proto: ModelProto, booster: Booster, columns: str) -> list[NodeProto]:
    """Nodes that make `tree_logit`[B] of the tensor `columns`; their constant joins the graph."""
    from onnx import helper, numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "tree_axis"))
    attributes: dict[str, Any] = tree_attributes(booster) | {"n_targets": 1}
    return [
        helper.make_node("TreeEnsembleRegressor", [columns], ["tree_margin"], domain=TREE_DOMAIN, **attributes),
        helper.make_node("Squeeze", ["tree_margin", "tree_axis"], ["tree_logit"]),
    ]


def _add_constants(proto: ModelProto, constants: dict[str, float]) -> None:
    from onnx import numpy_helper

    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array([value], np.float32), name) for name, value in constants.items()
    )


def _finish(proto: ModelProto, nodes: list[NodeProto], path: Path, outputs: Sequence[str] = ("score",)) -> None:
    """Add the nodes, make these the only outputs, check, and write."""
    import onnx
    from onnx import TensorProto, helper

    proto.graph.node.extend(nodes)
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in outputs)
    proto.opset_import.append(helper.make_opsetid(TREE_DOMAIN, TREE_OPSET))
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))
