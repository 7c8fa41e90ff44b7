"""An edge package scores like the model it came from, with nothing but numpy and onnxruntime at hand."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest

from components.build_features.core import build_features
from components.materialize.core import sources_of
from edge.package import EdgeGraph, EdgeOptions, Limit, build, choose_graph
from fraud.features import VIEWS
from millrace.errors import ArtifactCorrupt, InvalidInput
from millrace.inputs import States
from millrace.installed import load
from millrace.lake.atomic import sha256_file
from millrace.lake.manifest import Manifest
from millrace.lookup import empty, recent_of
from millrace.pseudonyms import pseudonym
from millrace.registry.model_artifact import ModelArtifact
from millrace.registry.model_spec import ModelSpec
from millrace.requests import RequestFormat

CUSTOMERS, TERMINALS = VIEWS
N = 6
AS_OF = datetime(2018, 5, 10, tzinfo=UTC)
THRESHOLD = 0.5
ALONE = """
import runpy, sys
only, script, *arguments = sys.argv[1:]
sys.path.append(only)
sys.argv = [script, *arguments]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    strangers = {name.split(".")[0] for name in sys.modules} & {"millrace", "pyarrow", "torch", "pydantic", "feast"}
    assert not strangers, strangers
"""


@pytest.fixture(scope="module")
def online(
    tmp_path_factory: pytest.TempPathFactory, simulated_days: list[pa.Table], snapshot_of: Callable[..., Manifest]
) -> Manifest:
    lake = tmp_path_factory.mktemp("lake")
    features = build_features(snapshot_of(lake, simulated_days), lake, history_length=N, threads=1)
    return sources_of(features, lake, AS_OF, 1, 1.0)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Manifest:
    options = {"sequence_length": 4, "history_length": N, "threshold": THRESHOLD, "every_input": True}
    return Manifest.read(tiny_model("edge", **options), "model")


@pytest.fixture
def package(tmp_path: Path, model: Manifest, online: Manifest) -> Path:
    build(model, "3", online, tmp_path / "package", EdgeOptions())
    return tmp_path / "package"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds numpy and onnxruntime only."""
    folder = tmp_path_factory.mktemp("only")
    for module in (np, onnxruntime):
        for part in Path(module.__file__).parents[1].glob(f"{module.__name__}*"):
            (folder / part.name).symlink_to(part)
    return folder


@pytest.fixture(scope="module")
def rows(simulated_days: list[pa.Table]) -> list[dict[str, Any]]:
    """Transactions of two days after the states, and one of a customer and a terminal nobody knows."""
    late = [row for day in simulated_days for row in day.to_pylist() if row["event_timestamp"] >= AS_OF][:60]
    known = [
        {
            "transaction_id": row["transaction_id"],
            "event_timestamp": row["event_timestamp"].isoformat(),
            "customer_id": row["customer_id"],
            "terminal_id": row["terminal_id"],
            "amount": float(row["amount"]),
        }
        for row in late
    ]
    return [*known, known[-1] | {"transaction_id": 10**9, "customer_id": "stranger", "terminal_id": "none"}]


def run(package: Path, alone: Path, rows: Any, *options: str) -> subprocess.CompletedProcess[str]:
    given = package.parent / "rows.json"
    given.write_text(json.dumps(rows))
    command = [sys.executable, "-I", "-S", "-c", ALONE, str(alone), str(package / "score.py")]
    file = [] if any(option.endswith(".csv") for option in options) else [str(given)]
    return subprocess.run([*command, *file, *options], capture_output=True, text=True, timeout=60, check=False)


def answers(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def offline(model: Manifest, online: Manifest, rows: list[dict[str, Any]]) -> list[float]:
    """Scores as the serving path makes them: its own state code, one transaction after the other."""
    import pyarrow.parquet as pq

    fraud, artifact = load("fraud"), ModelArtifact.open(model.fetch())
    table = pq.read_table(online.path("customer_state.parquet")).to_pydict()
    customers = dict(zip(table["customer_id"], recent_of(table, CUSTOMERS), strict=True))
    terminals = {
        row["terminal_id"]: np.array([[row[name] for name in TERMINALS.fields]], np.int64)
        for row in pq.read_table(online.path("terminal_state.parquet")).to_pylist()
    }
    scores = []
    for row in rows:
        one = RequestFormat.of(fraud).from_rows([row], 0)
        state = customers.get(row["customer_id"], empty(CUSTOMERS))
        terminal = terminals.get(row["terminal_id"], np.zeros((1, len(TERMINALS.fields)), np.int64))
        states = States({CUSTOMERS.name: [state]}, {TERMINALS.name: terminal})
        inputs = fraud.online.model_inputs(one, states, history_length=N, sequence_length=4)
        scores.append(float(artifact.score(*inputs)[0]))
        (values,) = fraud.online.remembered(one, states)
        customers[row["customer_id"]] = state.append(int(one.event_id[0]), int(one.event_us[0]), values, N)
    return scores


def test_it_scores_like_the_model_with_numpy_and_onnxruntime_alone(
    package: Path, alone: Path, model: Manifest, online: Manifest, rows: list[dict[str, Any]]
) -> None:
    got = answers(run(package, alone, rows, "--pseudonyms"))

    wanted = offline(model, online, rows)
    assert [answer["score"] for answer in got] == wanted
    assert [answer["decision"] for answer in got] == ["review" if score >= THRESHOLD else "approve" for score in wanted]
    assert {answer["source"] for answer in got} == {"edge"}
    assert len(set(wanted)) > 30


def test_what_was_scored_is_remembered_by_the_next_run(
    package: Path, alone: Path, model: Manifest, online: Manifest, rows: list[dict[str, Any]]
) -> None:
    answers(run(package, alone, rows[:40], "--pseudonyms"))
    with (package / "journal.jsonl").open("a") as journal:
        journal.write('["cut off by a ki')

    got = answers(run(package, alone, rows[40:], "--pseudonyms"))
    again = answers(run(package, alone, rows[-1:], "--pseudonyms"))

    assert [answer["score"] for answer in got] == offline(model, online, rows)[40:]
    assert again == got[-1:]
    assert len((package / "journal.jsonl").read_text().splitlines()) == len(rows)


def test_ids_are_pseudonymised_with_the_homes_key(
    package: Path, alone: Path, model: Manifest, online: Manifest, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    states = dict(np.load(package / "state.npz"))
    names = np.array([pseudonym(name, b"secret") for name in states["customer_state:key"].tolist()])
    np.savez_compressed(package / "state.npz", **(states | {"customer_state:key": names}))
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["files"]["state.npz"] = sha256_file(package / "state.npz")
    (package / "manifest.json").write_text(json.dumps(manifest))

    got = answers(run(package, alone, rows, "--key", str(key)))
    without = run(package, alone, rows)

    assert [answer["score"] for answer in got] == offline(model, online, rows)
    assert without.returncode == 1
    assert "--key FILE" in without.stderr


def test_a_csv_is_read_like_json(package: Path, alone: Path, rows: list[dict[str, Any]]) -> None:
    csv = package.parent / "rows.csv"
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    csv.write_text("\n".join(lines))

    from_csv = answers(run(package, alone, [], str(csv), "--pseudonyms"))
    (package / "journal.jsonl").unlink()

    assert from_csv == answers(run(package, alone, rows, "--pseudonyms"))


@pytest.mark.parametrize("name", ["model.onnx", "state.npz", "edge/fraud/formulas.py", "score.py"])
def test_a_changed_file_is_refused(package: Path, alone: Path, rows: list[dict[str, Any]], name: str) -> None:
    with (package / name).open("ab") as file:
        file.write(b"\n")

    done = run(package, alone, rows, "--pseudonyms")

    assert done.returncode == 1
    assert name in done.stderr
    assert "sha256" in done.stderr
    assert done.stdout == ""


def test_a_module_that_was_added_is_refused(package: Path, alone: Path, rows: list[dict[str, Any]]) -> None:
    (package / "edge" / "numpy.py").write_text("raise SystemExit('ran')")

    done = run(package, alone, rows, "--pseudonyms")

    assert done.returncode == 1
    assert "not in manifest.json" in done.stderr


def test_a_row_that_is_no_transaction_is_named_before_any_is_scored(
    package: Path, alone: Path, rows: list[dict[str, Any]]
) -> None:
    done = run(package, alone, [*rows[:3], rows[3] | {"amount": "much"}], "--pseudonyms")

    assert done.returncode == 1
    assert "row 3: field 'amount'" in done.stderr
    assert done.stdout == ""


class _Model(BaseHTTPRequestHandler):
    """Answers .9 and review to everything, and remembers what it was asked."""

    asked: list[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        (row,) = body["instances"]
        type(self).asked.append(row["transaction_id"])
        found = {"predictions": [{"score": 0.9, "decision": "review", "degraded": False}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_: Any) -> None:
        """Silence."""


@pytest.fixture
def endpoint() -> Iterator[HTTPServer]:
    _Model.asked = []
    with HTTPServer(("127.0.0.1", 0), _Model) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_only_uncertain_transactions_are_asked_for(
    package: Path, alone: Path, model: Manifest, online: Manifest, rows: list[dict[str, Any]], endpoint: HTTPServer
) -> None:
    scores = offline(model, online, rows)
    band = float(np.sort(np.abs(np.array(scores) - THRESHOLD))[10])
    url = f"http://127.0.0.1:{endpoint.server_port}/v1/models/fraud-detector:predict"

    got = answers(run(package, alone, rows, "--pseudonyms", "--endpoint", url, "--band", repr(band)))

    near = [abs(score - THRESHOLD) <= band for score in scores]
    assert [answer["source"] == "endpoint" for answer in got] == near
    assert [answer["score"] for answer in got] == [0.9 if n else s for n, s in zip(near, scores, strict=True)]
    assert _Model.asked == [row["transaction_id"] for row, n in zip(rows, near, strict=True) if n]
    assert 0 < sum(near) < len(near)


def test_the_own_score_counts_while_the_endpoint_is_away(
    package: Path, alone: Path, model: Manifest, online: Manifest, rows: list[dict[str, Any]]
) -> None:
    done = run(package, alone, rows, "--pseudonyms", "--endpoint", "http://127.0.0.1:9/", "--band", "1")

    got = answers(done)
    assert [answer["score"] for answer in got] == offline(model, online, rows)
    assert {answer["source"] for answer in got} == {"edge"}
    assert done.stderr.count("does not answer") == 3


def test_a_smaller_package_keeps_the_customers_seen_last(tmp_path: Path, model: Manifest, online: Manifest) -> None:
    limits = {"customer_state": Limit(5), "terminal_state": Limit(7, "count_30d")}

    made = build(model, "3", online, tmp_path / "small", EdgeOptions(limits=limits))

    assert made["states"] == {"customer_state": 5, "terminal_state": 7}
    with np.load(tmp_path / "small" / "state.npz") as states:
        assert states["customer_state:key"].shape == (5,)
        assert states["terminal_state:state"].shape == (7, len(TERMINALS.fields))
        assert states["customer_state:end"][-1] == len(states["customer_state:event_us"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("customer_state", "wanted VIEW=COUNT"),
        ("customer_state=many", "wanted VIEW=COUNT"),
    ],
)
def test_a_limit_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Limit.parse(text)


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"city": Limit(1)}, "no view 'city'"), ({"terminal_state": Limit(1, "fame")}, "has no field 'fame'")],
)
def test_a_limit_of_what_is_not_there_is_refused(
    tmp_path: Path, model: Manifest, online: Manifest, limits: dict[str, Limit], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        build(model, "3", online, tmp_path / "small", EdgeOptions(limits=limits))


def with_variants(model: Manifest, *variants: dict[str, Any]) -> tuple[Manifest, ModelSpec]:
    """The model, were these graphs in it, too."""
    spec = ModelSpec.read(model.fetch())
    spec.optimisation["variants"] = [{"file": "model.onnx", "average_precision": 0.75}, *variants]
    files = model.files | {variant["file"]: "0" * 64 for variant in variants}
    return Manifest(kind="model", id=model.id, workload="fraud", uri=model.uri, files=files), spec


def test_int8_goes_along_where_it_keeps_the_metric(model: Manifest) -> None:
    def chosen(int8_ap: float) -> tuple[str, str]:
        graph = choose_graph(*with_variants(model, {"file": "model.int8.onnx", "average_precision": int8_ap}))
        return graph.file, graph.precision

    assert chosen(0.7495) == ("model.int8.onnx", "int8")
    assert chosen(0.74) == ("model.onnx", "fp32")


def test_a_student_goes_along_with_its_own_threshold_unless_the_full_model_is_wanted(model: Manifest) -> None:
    student = {"file": "student.onnx", "average_precision": 0.75, "decision_threshold": 0.3, "certain_below": 0.01}

    def chosen(loss_high: float | None, full: bool = False) -> EdgeGraph:
        return choose_graph(*with_variants(model, student | {"loss_high": loss_high}), full)

    assert chosen(0.007) == EdgeGraph("student.onnx", "student", 0.3, 0.01)
    assert chosen(0.008).file == "model.onnx"
    assert chosen(None).file == "model.onnx"
    assert chosen(0.0, full=True) == EdgeGraph("model.onnx", "fp32", THRESHOLD)


def test_the_endpoint_is_asked_for_what_a_student_is_not_sure_of(
    package: Path, alone: Path, model: Manifest, online: Manifest, rows: list[dict[str, Any]], endpoint: HTTPServer
) -> None:
    scores = offline(model, online, rows)
    below = float(np.quantile(scores, 0.8))
    manifest = json.loads((package / "manifest.json").read_text()) | {"certain_below": below}
    (package / "manifest.json").write_text(json.dumps(manifest))
    url = f"http://127.0.0.1:{endpoint.server_port}/v1/models/fraud-detector:predict"

    got = answers(run(package, alone, rows, "--pseudonyms", "--endpoint", url))

    assert [answer["source"] == "endpoint" for answer in got] == [score >= below for score in scores]
    assert 0 < len(_Model.asked) < len(rows) / 2


def test_a_package_is_not_built_over_a_folder_or_from_a_broken_model(
    tmp_path: Path, package: Path, model: Manifest, online: Manifest
) -> None:
    with pytest.raises(InvalidInput, match="there already"):
        build(model, "3", online, package, EdgeOptions())
    broken = Manifest(
        kind="model", id=model.id, workload="fraud", uri=model.uri, files=model.files | {"model.onnx": "0" * 64}
    )
    with pytest.raises(ArtifactCorrupt):
        build(broken, "3", online, tmp_path / "other", EdgeOptions())
    assert not (tmp_path / "other").exists()
