"""What the servers serve: a promoted model of a small home, its graph made heavy, and rows of the home to score."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from fraud.simulator import SimulationConfig, write
from millrace.errors import MillraceError, NotFound
from millrace.lake.manifest import Manifest, content_id, hash_files, list_manifests
from millrace.lake.training_set import TrainingSet
from millrace.registry.model_artifact import ModelArtifact
from millrace.registry.model_spec import ModelSpec

ROOT: Final = Path(__file__).parents[2]
WORLD: Final = SimulationConfig(customers=400, terminals=800, days=60, seed=3)
OVERRIDES: Final = ROOT / "tests" / "e2e" / "local" / "small.yaml"
BODIES: Final = 64
HEAVY_MS: Final = 2.5
"""What a single row takes at least in the heavy graph."""


@dataclass(frozen=True)
class Served:
    """A model folder, its graph, and model inputs of real rows: features[B, F], history[B, N, C]."""

    home: Path
    folder: Path
    graph: Path
    length: int
    features: NDArray[np.float32]
    history: NDArray[np.float32]

    def bodies(self, protocol: str) -> list[bytes]:
        """One row a body, in JSON as a client library writes it."""
        make = _v2 if protocol == "v2" else _v1
        rows = zip(self.features.tolist(), self.history.tolist(), strict=True)
        return [json.dumps(make(*row)).encode() for row in rows]


def small_home(folder: Path) -> Path:
    """A home with a model promoted from a small simulation, by the ordinary pipeline."""
    if not _fits(folder):
        shutil.rmtree(folder, ignore_errors=True)
        print(f"training a small model in {folder}", file=sys.stderr)
        write(WORLD, folder / "raw")
        command = [
            sys.executable,
            "-m",
            "run",
            "--data",
            str(folder / "raw"),
            "--train-days",
            "21",
            "--profile",
            "simulated",
        ]
        settings = {"MILLRACE_HOME": str(folder), "PYTHONWARNINGS": "ignore"}
        command += ["--overrides", str(OVERRIDES), "--no-serve"]
        done = subprocess.run(command, env=os.environ | settings, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the small pipeline run failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return folder


def _fits(home: Path) -> bool:
    """Whether there is a model, of the features that this code computes."""
    try:
        ModelSpec.read(_promoted_folder(home)).require_contract()
    except MillraceError:
        return False
    return True


def _promoted_folder(home: Path) -> Path:
    found = sorted((home / "serving").glob("*.yaml"))
    if not found:
        raise NotFound(f"nothing is promoted in {home}; run the pipeline there first, or leave --home out")
    manifest = yaml.safe_load(found[0].read_text())
    name, version = manifest["metadata"]["name"], manifest["metadata"]["annotations"]["millrace.io/model-version"]
    return home / "serving" / "models" / name / version


def promoted(home: Path) -> Served:
    """The model that serves in `home`, and rows of its test week."""
    folder = _promoted_folder(home)
    spec = ModelSpec.read(folder)
    rows = TrainingSet(list(list_manifests(home / "lake" / "training_sets", "training_set"))[-1])
    chosen = np.random.default_rng(0).choice(rows.rows_of("test"), BODIES, replace=False)
    features, history = rows.batch(np.sort(chosen), spec.history_length)
    assert spec.served_file is not None
    return Served(home, folder, folder / spec.served_file, spec.sequence_length, features, history)


def heavy(model: Served, folder: Path) -> Served:
    """The same model as an ensemble: its graph as often as it takes for a single row to cost HEAVY_MS, averaged."""
    import onnx

    copies = 1
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model.folder, folder)
        (folder / "manifest.json").unlink()
        onnx.save(_ensemble(onnx.load(model.graph), copies), folder / model.graph.name)
        files = hash_files(folder)
        Manifest(kind="model", id=content_id(files), workload="fraud", uri=str(folder), files=files).write()
        took = _single_row_ms(ModelArtifact.open(folder, cascade=False), model)
        if took >= HEAVY_MS:
            return replace(model, folder=folder, graph=folder / model.graph.name)
        copies = max(copies + 1, int(np.ceil(copies * HEAVY_MS / took)))


def _ensemble(single: Any, copies: int) -> Any:
    """`copies` of a graph over the same inputs; each with weights of its own, slightly apart, as members have."""
    from onnx import compose, helper, numpy_helper

    inputs = [item.name for item in single.graph.input]
    members = []
    for number in range(copies):
        member = compose.add_prefix(single, f"m{number}_", rename_inputs=False)
        for tensor in member.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.ndim > 1:
                noise = np.random.default_rng(number).normal(1.0, 1e-3, array.shape)
                tensor.CopyFrom(numpy_helper.from_array((array * noise).astype(np.float32), tensor.name))
        members.append(member.graph)
    nodes = [node for member in members for node in member.node]
    scores = [member.output[0].name for member in members]
    nodes.append(helper.make_node("Mean", scores, ["score"]))
    weights = [tensor for member in members for tensor in member.initializer]
    kept = [item for item in members[0].input if item.name in inputs]
    graph = helper.make_graph(nodes, "ensemble", kept, single.graph.output, weights)
    return helper.make_model(graph, opset_imports=single.opset_import, ir_version=single.ir_version)


def _single_row_ms(artifact: ModelArtifact, model: Served) -> float:
    import time

    history = np.ascontiguousarray(model.history[:1, -model.length :])
    times = []
    for _ in range(15):
        start = time.perf_counter()
        artifact.run(model.features[:1], history)
        times.append(time.perf_counter() - start)
    return float(np.min(times)) * 1000


def _v1(features: list[float], history: list[list[float]]) -> dict[str, Any]:
    return {"instances": [{"features": features, "history": history}]}


def _v2(features: list[float], history: list[list[float]]) -> dict[str, Any]:
    flat = [value for step in history for value in step]
    shape = [1, len(history), len(history[0])]
    tensors = (("features", [1, len(features)], features), ("history", shape, flat))
    return {"inputs": [{"name": n, "datatype": "FP32", "shape": s, "data": d} for n, s, d in tensors]}
