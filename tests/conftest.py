"""Builders that several test folders share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.features import FEATURE_NAMES, FEATURE_SERVICE, HISTORY_CHANNELS
from fraud.simulator import SimulationConfig, simulate
from millrace import installed, packaged
from millrace.installed import Workload
from millrace.lake.atomic import sha256_file
from millrace.lake.manifest import Manifest, content_id, hash_files
from millrace.registry.models import Registry
from millrace.settings import Settings

LONGEST_FIRST: Final = (
    "e2e/local/test_loop.py",
    "unit/serving/test_drift_detector.py",
    "unit/build_features/test_spark.py",
    "unit/train/test_processes.py",
    "e2e/local/test_runtime.py",
    "unit/train/test_elastic.py",
    "e2e/local/test_serving.py",
    "e2e/local/test_backtest.py",
    "contract/test_feast_redis.py",
    "contract/test_feast_redis_pushes.py",
    "contract/test_http_conformance.py",
    "contract/test_kills.py",
    "unit/materialize/test_refresh.py",
    "e2e/local/test_rollout.py",
    "contract/test_prediction_events.py",
    "contract/test_lake_remote.py",
)
"""Files that take longer than half a minute, so that no worker begins one while the others have nothing left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of LONGEST_FIRST in its order, then the others in theirs; the tests of a file stay together."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def build_tiny_model(
    folder: Path,
    *,
    sequence_length: int = 8,
    history_length: int = 64,
    threshold: float = 0.5,
    every_input: bool = False,
    cascade: tuple[float, float] | None = None,
) -> Path:
    """A model artifact of a few weights: score = sigmoid(amount / 100 - 2 + amounts of the history / 1000).

    With `every_input` every feature and channel has some weight, so that a wrong input shows in the score.
    `cascade` adds a cheap first model with these bounds: sigmoid(amount / 100 - 2).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True)
    weights = np.zeros((len(FEATURE_NAMES), 1), np.float32)
    weights[FEATURE_NAMES.index("amount")] = 0.01
    channel = np.zeros((len(HISTORY_CHANNELS), 1), np.float32)
    channel[HISTORY_CHANNELS.index("amount")] = 0.001
    if every_input:
        random = np.random.default_rng(0)
        weights += random.normal(0, 0.005, weights.shape).astype(np.float32)
        channel += random.normal(0, 0.0005, channel.shape).astype(np.float32)
    constants = {"w": weights, "c": channel, "bias": np.float32([-2.0]), "shape": np.int64([-1])}
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["scalar"]),
        helper.make_node("MatMul", ["history", "c"], ["steps"]),
        helper.make_node("ReduceSum", ["steps", "axis"], ["past"], keepdims=0),
        helper.make_node("Add", ["scalar", "past"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["column"]),
        helper.make_node("Reshape", ["column", "shape"], ["score"]),
    ]
    constants["axis"] = np.int64([1])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", len(FEATURE_NAMES)]),
            helper.make_tensor_value_info("history", TensorProto.FLOAT, ["B", sequence_length, len(HISTORY_CHANNELS)]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    document = {
        "name": "tiny",
        "workload": "fraud",
        "task": "ranking",
        "feature_service": FEATURE_SERVICE,
        "feature_names": list(FEATURE_NAMES),
        "history_channels": list(HISTORY_CHANNELS),
        "history_length": history_length,
        "sequence_length": sequence_length,
        "decision_threshold": threshold,
        "served_file": "model.onnx",
    }
    if cascade is not None:
        write_cheap_graph(folder / "cascade.onnx")
        document["cascade"] = {"file": "cascade.onnx", "lower": cascade[0], "upper": cascade[1]}
    (folder / "model.json").write_text(json.dumps(document))
    files = hash_files(folder)
    facts = {"generation": "served"}
    Manifest(kind="model", id=content_id(files), workload="fraud", uri=str(folder), files=files, facts=facts).write()
    return folder


def write_cheap_graph(path: Path) -> None:
    """A first model of a cascade: features → sigmoid(amount / 100 - 2)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.zeros((len(FEATURE_NAMES), 1), np.float32)
    weights[FEATURE_NAMES.index("amount")] = 0.01
    constants = {"w": weights, "bias": np.float32([-2.0]), "shape": np.int64([-1])}
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["scalar"]),
        helper.make_node("Add", ["scalar", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["column"]),
        helper.make_node("Reshape", ["column", "shape"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cheap",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", len(FEATURE_NAMES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def install(monkeypatch: pytest.MonkeyPatch, name: str) -> Workload:
    """The workload in `tests/<name>` as one that is installed."""
    usual = packaged.entry_points
    more = EntryPoint(name, name, packaged.GROUP)
    monkeypatch.setattr(
        packaged, "entry_points", lambda group: [*usual(group=group), *([more] if group == packaged.GROUP else [])]
    )
    return installed.load(name)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Workload:
    """A workload of a quantity, without histories: what learns, judges and serves."""
    return install(monkeypatch, "machines")


@pytest.fixture
def rides(monkeypatch: pytest.MonkeyPatch) -> Workload:
    """A workload of a quantity: what comes before features."""
    return install(monkeypatch, "rides")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model("a", threshold=0.5)` → folder of a small real model artifact, built once per name and options."""
    root = tmp_path_factory.mktemp("models")

    def build(name: str | Path = "tiny", **options: Any) -> Path:
        folder = root / name / content_id(options)
        return folder if folder.exists() else build_tiny_model(folder, **options)

    return build


def write_snapshot(lake: Path, days: Sequence[pa.Table], workload: str = "fraud") -> Manifest:
    """A snapshot as ingest makes it: a partition per day, named by the hash of its content."""
    paths: dict[str, Path] = {}
    for rows in days:
        day = str(rows["event_timestamp"][0].as_py().date())
        folder = lake / "events" / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.replace_schema_metadata(), folder / "new")
        paths[day] = (folder / "new").rename(folder / f"{sha256_file(folder / 'new')[:16]}.parquet")
    identity = content_id({day: path.name for day, path in paths.items()})
    folder = lake / "snapshots" / identity
    relative = {day: os.path.relpath(path, folder) for day, path in paths.items()}
    facts = {
        "tables": {"events": relative},
        "first_day": min(paths, default=""),
        "last_day": max(paths, default=""),
    }
    files = {relative[day]: sha256_file(path) for day, path in paths.items()}
    return Manifest(kind="snapshot", id=identity, workload=workload, uri=str(folder), files=files, facts=facts).write()


@pytest.fixture(scope="session")
def snapshot_of() -> Callable[[Path, Sequence[pa.Table]], Manifest]:
    """`snapshot_of(lake, days)`: tables of raw transactions, one a day → a snapshot in the lake."""
    return write_snapshot


@pytest.fixture(scope="session")
def simulated_days() -> list[pa.Table]:
    """45 days of 40 customers at 60 terminals, about 3,500 transactions; labels known after a week."""
    config = SimulationConfig(customers=40, terminals=60, radius=30.0, days=45, seed=3)
    return list(simulate(config))


@pytest.fixture(scope="session")
def with_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Settings]:
    """`with_database(home)`: settings of a home that has MLflow's empty tables, which take seconds to make but once."""
    template = tmp_path_factory.mktemp("template")
    Registry(Settings(home=template)).versions()

    def make(home: Path) -> Settings:
        (home / "mlflow").mkdir(parents=True)
        shutil.copyfile(template / "mlflow" / "mlflow.db", home / "mlflow" / "mlflow.db")
        return Settings(home=home)

    return make
