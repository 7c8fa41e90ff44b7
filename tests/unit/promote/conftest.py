"""A servable model with its judgements, and a home with an empty registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fraud.features import FEATURE_NAMES, FEATURE_SERVICE, HISTORY_CHANNELS
from millrace.judge.gates import Rule, Verdict
from millrace.lake.manifest import Manifest, hash_files
from millrace.settings import Settings

LENGTH = 4
BASE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: fraud-detector
  annotations:
    millrace.io/model-version: unset
spec:
  predictor:
    containers:
      - name: kserve-container
        image: millrace/predictor:0.1.0
        env:
          - {name: STORAGE_URI, value: unset}
          - {name: MODEL_VERSION, value: unset}
        securityContext: &restricted {runAsNonRoot: true}
  transformer:
    containers:
      - name: kserve-container
        image: millrace/transformer:0.1.0
        securityContext: *restricted
"""


@pytest.fixture
def settings(tmp_path: Path, with_database: Callable[[Path], Settings]) -> Settings:
    return with_database(tmp_path / "home")


@pytest.fixture
def base_manifest(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


@pytest.fixture
def make_model(settings: Settings) -> Callable[[str], Manifest]:
    """A servable model of that id."""

    def make(identity: str) -> Manifest:
        folder = settings.lake.resolve() / "models" / identity
        folder.mkdir(parents=True)
        _write_graph(folder / "model.onnx")
        document = {
            "name": "fraud-detector",
            "workload": "fraud",
            "task": "ranking",
            "feature_service": FEATURE_SERVICE,
            "feature_names": FEATURE_NAMES,
            "history_channels": HISTORY_CHANNELS,
            "history_length": 16,
            "sequence_length": LENGTH,
            "decision_threshold": 0.5,
            "served_file": "model.onnx",
        }
        (folder / "model.json").write_text(json.dumps(document | {"seeds": {"of": identity}}))
        parents = {"model": "trained", "training_set": "t1", "feature_set": "f1", "snapshot": "s1"}
        facts = {"name": "fraud-detector", "decision_threshold": 0.5, "mlflow_run_id": "0" * 32}
        return Manifest(
            kind="model",
            id=identity,
            workload="fraud",
            uri=str(folder),
            parents=parents,
            files=hash_files(folder),
            facts=facts,
        ).write()

    return make


@pytest.fixture
def make_judgement(settings: Settings) -> Callable[..., Manifest]:
    """A judgement of one rule, with the given parents."""

    def make(kind: str, parents: dict[str, str], value: float | None = 1.0, card: str = "") -> Manifest:
        identity = f"{kind}-{'-'.join(parents.values())}-{value}"
        folder = settings.lake.resolve() / f"{kind}s" / identity
        folder.mkdir(parents=True)
        Verdict(kind, (Rule("figure", value, ">=", 0.5),)).write(folder / "verdict.json")
        if card:
            (folder / "model_card.md").write_text(card)
        facts = {"passed": True, "metrics": {"average_precision": 0.7}, "generation": "g1"}
        return Manifest(
            kind=kind,
            id=identity,
            workload="fraud",
            uri=str(folder),
            parents=parents,
            files=hash_files(folder),
            facts=facts,
        ).write()

    return make


def _write_graph(path: Path) -> None:
    """score = sigmoid(sum of features + sum of history)."""
    shapes = {"features": ["batch", len(FEATURE_NAMES)], "history": ["batch", LENGTH, len(HISTORY_CHANNELS)]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    constants = [numpy_helper.from_array(np.array(axes), name) for name, axes in (("one", [1]), ("two", [1, 2]))]
    nodes = [
        helper.make_node("ReduceSum", ["features", "one"], ["a"], keepdims=0),
        helper.make_node("ReduceSum", ["history", "two"], ["b"], keepdims=0),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Sigmoid", ["c"], ["score"]),
    ]
    output = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])]
    graph = helper.make_graph(nodes, "g", inputs, output, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
