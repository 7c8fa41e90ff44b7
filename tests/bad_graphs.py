"""What makes a model bad, done to the graph of the small one (`conftest.build_tiny_model`), each for one reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fraud.features import FEATURE_NAMES


def constant(graph: onnx.GraphProto, name: str, value: Any) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def add_to_score(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], value: str) -> None:
    """`value` times nothing is added to the score: the nodes run and change no figure."""
    graph.node[-1].output[0] = "plain"
    zero = helper.make_node("Mul", [value, constant(graph, "zero", np.float32(0))], ["nothing"])
    graph.node.extend([*nodes, zero, helper.make_node("Add", ["plain", "nothing"], ["score"])])


def healthy(graph: onnx.GraphProto) -> None:
    """Another model that decides nearly alike."""
    bias = next(item for item in graph.initializer if item.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.float32([-2.001]), "bias"))


def skewed(graph: onnx.GraphProto) -> None:
    """Scores of another distribution."""
    bias = next(item for item in graph.initializer if item.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.float32([0.5]), "bias"))


def slow(graph: onnx.GraphProto) -> None:
    """A product of large matrices with every score."""
    shape = constant(graph, "large", np.int64([1600, 1600]))
    nodes = [
        helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", constant(graph, "tiny", np.float32(1e-6))], ["small"]),
        helper.make_node("Expand", ["small", shape], ["matrix"]),
        helper.make_node("MatMul", ["matrix", "matrix"], ["product"]),
        helper.make_node("ReduceMax", ["product"], ["slowly"], keepdims=0),
    ]
    add_to_score(graph, nodes, "slowly")


def failing(graph: onnx.GraphProto) -> None:
    """Reads past the end of a table for every real amount; the blank rows of the warm-up have none."""
    amount = constant(graph, "place", np.int64([FEATURE_NAMES.index("amount")]))
    nodes = [
        helper.make_node("Gather", ["features", amount], ["amounts"], axis=1),
        helper.make_node("ReduceMax", ["amounts"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", constant(graph, "none", np.float32(0))], ["real"]),
        helper.make_node("Cast", ["real"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", [constant(graph, "table", np.float32([1.0])), "index"], ["looked_up"]),
    ]
    add_to_score(graph, nodes, "looked_up")


def not_a_number(graph: onnx.GraphProto) -> None:
    """NaN for every row."""
    graph.node[-1].output[0] = "plain"
    graph.node.append(helper.make_node("Add", ["plain", constant(graph, "nan", np.float32(np.nan))], ["score"]))


def always_the_same(graph: onnx.GraphProto) -> None:
    """One score for every row."""
    graph.node[-1].output[0] = "plain"
    zero, same = constant(graph, "zero", np.float32(0)), constant(graph, "same", np.float32(0.2))
    graph.node.extend(
        [helper.make_node("Mul", ["plain", zero], ["none"]), helper.make_node("Add", ["none", same], ["score"])]
    )


def misshapen(graph: onnx.GraphProto) -> None:
    """Two scores for every row with an amount; the blank rows of the warm-up have none."""
    graph.node[-1].output[0] = "plain"
    nodes, real = real_rows(graph)
    nodes.append(helper.make_node("Compress", ["plain", real], ["again"], axis=0))
    graph.node.extend([*nodes, helper.make_node("Concat", ["plain", "again"], ["score"], axis=0)])


def past_patience(graph: onnx.GraphProto) -> None:
    """Products of large matrices, for longer than the transformer waits, with every request."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["square", "square"], ["product"]),
            helper.make_node("Mul", ["product", "nothing_of_it"], ["square_out"]),
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
        ],
        "products",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("square", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("square_out", TensorProto.FLOAT, None),
        ],
    )
    constant(graph, "nothing_of_it", np.float32(0))
    nodes, many = many_if_real(graph, 40)
    shape, one = constant(graph, "large", np.int64([1600, 1600])), constant(graph, "one_more", np.float32([1]))
    yes = constant(graph, "yes", np.bool_(True))
    nodes += [
        helper.make_node("Expand", [one, shape], ["matrix"]),
        helper.make_node("Loop", [many, yes, "matrix"], ["last_square"], body=body),
        helper.make_node("ReduceMax", ["last_square"], ["slowly"], keepdims=0),
    ]
    add_to_score(graph, nodes, "slowly")


def greedy(graph: onnx.GraphProto) -> None:
    """A tensor of 800 MB with every request."""
    nodes, many = many_if_real(graph, 200_000_000)
    nodes += [
        helper.make_node("Add", [many, constant(graph, "at_least", np.int64(1))], ["length"]),
        helper.make_node("Reshape", ["length", constant(graph, "a_vector", np.int64([1]))], ["shape_of_it"]),
        helper.make_node("Expand", [constant(graph, "one_of_it", np.float32([1])), "shape_of_it"], ["all_of_it"]),
        helper.make_node("ReduceMax", ["all_of_it"], ["largest_of_it"], keepdims=0),
    ]
    add_to_score(graph, nodes, "largest_of_it")


def real_rows(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], str]:
    """Which rows have an amount, [B]."""
    place = constant(graph, "place_of_amount", np.int64(FEATURE_NAMES.index("amount")))
    none = constant(graph, "no_amount", np.float32(0))
    nodes = [
        helper.make_node("Gather", ["features", place], ["amount_of_row"], axis=1),
        helper.make_node("Greater", ["amount_of_row", none], ["is_real"]),
    ]
    return nodes, "is_real"


def many_if_real(graph: onnx.GraphProto, many: int) -> tuple[list[onnx.NodeProto], str]:
    """A number, 0 for blank rows."""
    nodes, real = real_rows(graph)
    nodes += [
        helper.make_node("Cast", [real], ["real_number"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["real_number"], ["any_real"], keepdims=0),
        helper.make_node("Mul", ["any_real", constant(graph, "many", np.int64(many))], ["so_many"]),
    ]
    return nodes, "so_many"


def other_features(document: dict[str, Any]) -> None:
    """Trained on features of another name."""
    document["feature_names"][0] = "amount_in_another_currency"
