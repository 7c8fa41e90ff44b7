"""A model folder with a graph of four operators."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fraud.features import FEATURE_NAMES, FEATURE_SERVICE, HISTORY_CHANNELS
from millrace.lake.manifest import Manifest, hash_files

LENGTH = 4


def write_graph(path: Path, features: str = "features", output: str = "score") -> None:
    """score = sigmoid(sum of features + sum of history)."""
    shapes = {features: ["batch", len(FEATURE_NAMES)], "history": ["batch", LENGTH, len(HISTORY_CHANNELS)]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    constants = [numpy_helper.from_array(np.array(axes), name) for name, axes in (("one", [1]), ("two", [1, 2]))]
    nodes = [
        helper.make_node("ReduceSum", [features, "one"], ["a"], keepdims=0),
        helper.make_node("ReduceSum", ["history", "two"], ["b"], keepdims=0),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Sigmoid", ["c"], [output]),
    ]
    out = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch"])]
    graph = helper.make_graph(nodes, "g", inputs, out, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a model folder; keyword arguments replace what `model.json` says."""

    def make(graph: Callable[[Path], None] = write_graph, **changes: Any) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        graph(folder / "model.onnx")
        document = {
            "name": "fraud-detector",
            "workload": "fraud",
            "task": "ranking",
            "feature_service": FEATURE_SERVICE,
            "feature_names": list(FEATURE_NAMES),
            "history_channels": list(HISTORY_CHANNELS),
            "history_length": 16,
            "sequence_length": LENGTH,
            "decision_threshold": 0.5,
            "served_file": "model.onnx",
            "parameters": {},
            "seeds": {},
        }
        (folder / "model.json").write_text(json.dumps(document | changes))
        Manifest(kind="model", id="m1", workload="fraud", uri="/where/it/was/made", files=hash_files(folder)).write(
            folder / "manifest.json"
        )
        return folder

    return make
