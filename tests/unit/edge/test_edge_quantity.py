"""A package of a quantity answers with an interval, and keeps no journal where nothing is recent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.package import EdgeOptions, build
from millrace.inputs import States
from millrace.installed import load
from millrace.lake.manifest import Manifest, content_id, hash_files
from millrace.requests import RequestFormat

TRIPS = load("trips")
NAMES = TRIPS.features.FEATURE_NAMES
ROWS = [
    {"trip_id": 1, "event_timestamp": "2021-02-01T08:00:00Z", "pickup_zone": 74, "dropoff_zone": "75"}
    | {"passenger_count": None, "trip_distance": 2.5},
    {"trip_id": 2, "event_timestamp": "2021-02-01T08:01:00Z", "pickup_zone": "Nowhere", "dropoff_zone": "75"}
    | {"passenger_count": 2, "trip_distance": 0.4},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """features → their sum as score, one less and one more as interval."""
    folder = tmp_path_factory.mktemp("model")
    nodes = [
        helper.make_node("ReduceSum", ["features", "axis"], ["score"], keepdims=0),
        helper.make_node("Sub", ["score", "one"], ["low"]),
        helper.make_node("Add", ["score", "one"], ["high"]),
    ]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", len(NAMES)])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B"]) for name in ("score", "low", "high")]
    constants = [numpy_helper.from_array(np.int64([1]), "axis"), numpy_helper.from_array(np.float32(1), "one")]
    graph = helper.make_graph(nodes, "sum", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, folder / "model.onnx")
    document = {
        "name": "sum",
        "workload": "trips",
        "task": "regression",
        "outputs": ["score", "low", "high"],
        "feature_service": TRIPS.features.FEATURE_SERVICE,
        "feature_names": list(NAMES),
        "served_file": "model.onnx",
    }
    (folder / "model.json").write_text(json.dumps(document))
    files = hash_files(folder)
    return Manifest(kind="model", id=content_id(files), workload="trips", uri=str(folder), files=files).write()


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """States of the first trip's entities; a field holds its place."""
    folder = tmp_path_factory.mktemp("online")
    keys = {"pickup": "74", "dropoff": "75", "pair": "74|75", "city": "all"}
    for view in TRIPS.features.VIEWS:
        columns: dict[str, Any] = {TRIPS.entity(view.entity).key: [keys[view.entity]]}
        columns["event_timestamp"] = pa.array([0]).cast(pa.timestamp("us", tz="UTC"))
        fields = {name: pa.array([place + 1], pa.int64()) for place, name in enumerate(view.fields)}
        pq.write_table(pa.table(columns | fields), folder / f"{view.name}.parquet")
    facts = {"as_of": "2021-02-01T00:00:00+00:00"}
    files = hash_files(folder)
    return Manifest(kind="online_store", id="o", workload="trips", uri=str(folder), files=files, facts=facts).write()


def expected() -> list[float]:
    """The sums of the features that the serving path makes."""
    requests = RequestFormat.of(TRIPS).from_rows(ROWS, now_us=0)
    known = {view.name: np.arange(1, len(view.fields) + 1)[None] for view in TRIPS.features.VIEWS}
    sums = []
    for row in range(len(ROWS)):
        seen = ("dropoff_state", "city_state") if row else tuple(known)
        states = {name: state if name in seen else state * 0 for name, state in known.items()}
        features, _ = TRIPS.online.model_inputs(
            requests.part(row, row + 1), States({}, states), history_length=0, sequence_length=0
        )
        sums.append(float(features.sum(axis=1)[0]))
    return sums


def test_it_answers_with_an_interval_and_leaves_no_trace(model: Manifest, online: Manifest, tmp_path: Path) -> None:
    package, given = tmp_path / "package", tmp_path / "rows.json"
    given.write_text(json.dumps(ROWS))
    build(model, "1", online, package, EdgeOptions())

    command = [sys.executable, str(package / "score.py"), str(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    score, low, high = TRIPS.exchange.ANSWER.values()
    assert [set(answer) for answer in answers] == [{"trip_id", score, low, high, "source"}] * 2
    assert [answer[score] for answer in answers] == pytest.approx(expected(), rel=1e-5)
    assert all(answer[high] - answer[low] == pytest.approx(2, abs=1e-3) for answer in answers)
    assert not (package / "journal.jsonl").exists()


def test_an_endpoint_for_uncertain_decisions_is_refused(model: Manifest, online: Manifest, tmp_path: Path) -> None:
    package = tmp_path / "package"
    build(model, "1", online, package, EdgeOptions())

    command = [sys.executable, str(package / "score.py"), "rows.json", "--endpoint", "http://127.0.0.1:9/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, "this model makes none" in done.stderr) == (1, True)
