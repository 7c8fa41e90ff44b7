"""The story of a newcomer: `make run` on a small simulation, real pipeline and real servers, and what follows from it.

One home for the whole module; the tests run in order and each tells what a user does next.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from fraud.simulator import SimulationConfig, write
from millrace.events.log import engine
from millrace.events.table import read_predictions
from millrace.installed import load
from millrace.lake.feast_home import filled_with
from millrace.registry.retraining import outcome_of
from millrace.settings import Settings
from trips.world import WorldConfig
from trips.world import write as write_trips

SMALL = Path(__file__).with_name("small.yaml")
WORLD = SimulationConfig(customers=400, terminals=800, days=60, seed=3)
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop") / "home"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write(WORLD, folder)
    return folder


@pytest.fixture(scope="module")
def program(home: Path) -> Iterator[Program]:
    """`program("run.loop", …)` runs a module in the home, as make does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"MILLRACE_HOME": str(home), "MILLRACE_GATEWAY_PORT": str(port), "PYTHONWARNINGS": "ignore"}

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)

    yield run
    run("serving.local", "down")


@pytest.fixture(scope="module")
def first_run(program: Program, raw: Path) -> str:
    done = program("run.loop", "--data", str(raw), "--overrides", str(SMALL), "--train-days", "21")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def url(home: Path, first_run: str) -> str:
    state = json.loads((home / "serving" / "local.json").read_text())
    return f"http://127.0.0.1:{state['gateway_port']}"


def served_version(home: Path) -> str:
    document = yaml.safe_load((home / "serving" / "fraud-detector.yaml").read_text())
    return str(document["metadata"]["annotations"]["millrace.io/model-version"])


def overrides(folder: Path, **changed: dict[str, object]) -> str:
    document = yaml.safe_load(SMALL.read_text())
    for component, keys in changed.items():
        document[component] = document.get(component, {}) | keys
    path = folder / "overrides.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_raw_events_become_live_predictions_equal_to_the_offline_ones(first_run: str, home: Path) -> None:
    replay = json.loads((home / "serving" / "replay" / "fraud-detector.json").read_text())

    assert "fraud-detector version 1 (champion)" in first_run
    assert replay["equal"]
    assert replay["rows"] > 300
    assert replay["degraded"] == 0


def test_the_page_links_every_report(first_run: str, home: Path) -> None:
    page = (home / "report" / "fraud" / "index.html").read_text()

    links = [part.split('"')[0] for part in page.split('href="')[1:]]

    assert len(links) >= 2
    assert all((home / "report" / "fraud" / link).resolve().is_file() for link in links)


def test_no_raw_customer_id_is_kept_outside_the_raw_data(first_run: str, home: Path) -> None:
    ids = pc.unique(pq.read_table(next((home / "lake" / "events").glob("*/*.parquet")))["customer_id"]).to_pylist()

    assert all(len(name) == 16 and int(name, 16) >= 0 for name in ids)


def test_v1_and_v2_answer_the_same_transaction_alike(url: str) -> None:
    transaction = {"transaction_id": 10**15, "customer_id": "17", "terminal_id": "42", "amount": 99.5}
    tensors = [
        {"name": "transaction_id", "datatype": "INT64", "shape": [1], "data": [10**15]},
        {"name": "customer_id", "datatype": "BYTES", "shape": [1], "data": ["17"]},
        {"name": "terminal_id", "datatype": "BYTES", "shape": [1], "data": ["42"]},
        {"name": "amount", "datatype": "FP64", "shape": [1], "data": [99.5]},
    ]
    timestamp = "2018-05-30T12:00:00Z"
    tensors.append({"name": "event_timestamp", "datatype": "BYTES", "shape": [1], "data": [timestamp]})

    v1 = httpx.post(
        f"{url}/v1/models/fraud-detector:predict", json={"instances": [transaction | {"event_timestamp": timestamp}]}
    )
    v2 = httpx.post(f"{url}/v2/models/fraud-detector/infer", json={"inputs": tensors})

    answer = v1.json()["predictions"][0]
    outputs = {tensor["name"]: tensor["data"][0] for tensor in v2.json()["outputs"]}
    assert outputs["score"] == pytest.approx(answer["score"], abs=1e-6)
    assert answer["model_version"] == "1"
    assert answer["degraded"] is False


def test_a_wrong_request_is_told_what_was_wanted(url: str) -> None:
    wrong = {"transaction_id": 5, "customer_id": "17", "terminal_id": "42", "amount": "much"}

    answer = httpx.post(f"{url}/v1/models/fraud-detector:predict", json={"instances": [wrong]})

    assert answer.status_code == 400
    assert "amount" in answer.text


def test_a_second_run_does_nothing_again(program: Program, raw: Path, first_run: str) -> None:
    program("run.loop", "--data", str(raw), "--overrides", str(SMALL), "--train-days", "21")

    again = program("run.loop", "--data", str(raw), "--overrides", str(SMALL), "--train-days", "21")

    assert again.returncode == 0, again.stderr
    for step in ("ingest", "validate", "build-features", "assemble", "train", "optimise", "evaluate"):
        assert f"= {step} (nothing changed)" in again.stdout


def test_lineage_leads_from_the_version_to_the_source(program: Program, raw: Path, first_run: str) -> None:
    chain = program("millrace.cli", "lineage", "1")

    assert chain.returncode == 0, chain.stderr
    assert all(kind in chain.stdout for kind in ("training_set", "feature_set", "snapshot"))
    assert str(raw) in chain.stdout.replace("\n", "")


def test_days_scored_in_batch_have_the_scores_that_were_served(
    program: Program, raw: Path, home: Path, first_run: str
) -> None:
    day = json.loads((home / "serving" / "replay" / "fraud-detector.json").read_text())["day"]

    done = program("run.score", "--data", str(raw), "--day", day)
    again = program("run.score", "--data", str(raw), "--day", day)

    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert "scored by version 1" in done.stdout
    (file,) = (line.strip() for line in done.stdout.splitlines() if line.strip().endswith(".parquet"))
    assert file in again.stdout
    batch = pq.read_table(file)
    offline = dict(zip(batch["transaction_id"].to_pylist(), batch["score"].to_pylist(), strict=True))
    served = {row["transaction_id"]: row["score"] for row in logged(home) if row["transaction_id"] in offline}
    assert len(served) > 300
    assert max(abs(served[one] - offline[one]) for one in served) < 1e-4


def test_a_model_that_is_not_good_enough_is_not_promoted(
    program: Program, raw: Path, home: Path, tmp_path: Path, first_run: str
) -> None:
    strict = overrides(tmp_path, evaluate={"min_average_precision": 0.999})

    blocked = program("run.loop", "--data", str(raw), "--overrides", strict, "--train-days", "21")

    assert blocked.returncode == 1
    assert "gate 'evaluation' blocked" in blocked.stderr
    assert "average_precision" in blocked.stderr
    assert "wanted >= 0.999" in blocked.stderr
    assert served_version(home) == "1"


def test_data_in_another_unit_is_stopped_before_features_are_built(
    program: Program, raw: Path, home: Path, tmp_path: Path, first_run: str
) -> None:
    for path in sorted(raw.glob("*.parquet")):
        table = pq.read_table(path)
        if path.stem >= "2018-05-24":
            in_cents = pc.multiply(table["amount"].cast("float64"), 100.0)
            table = table.set_column(table.column_names.index("amount"), "amount", in_cents)
        pq.write_table(table, tmp_path / path.name)

    blocked = program("run.loop", "--data", str(tmp_path), "--overrides", str(SMALL), "--train-days", "21")

    assert blocked.returncode == 1
    assert "gate 'data' blocked" in blocked.stderr
    assert "build-features" not in blocked.stdout
    assert served_version(home) == "1"


def test_a_retraining_that_a_gate_stops_says_which_rule_and_leaves_the_champion(
    program: Program, raw: Path, home: Path, tmp_path: Path, first_run: str
) -> None:
    strict = overrides(tmp_path, validate={"min_days": 90})

    asked = ("--reason", "a test", "--event-id", "a", "--source", str(raw), "--overrides", strict)
    declined = program("run.retrain", *asked)

    outcome = outcome_of(home, "a")
    assert declined.returncode == 4, declined.stderr
    assert outcome is not None
    assert (outcome.outcome, outcome.challenger) == ("declined", None)
    assert outcome.detail.startswith("gate 'data' blocked: 1 of ")
    assert "FAIL  days: 60 (wanted >= 90)" in outcome.detail
    assert served_version(home) == "1"


def test_a_challenger_waits_is_promoted_and_rolled_back(
    program: Program, raw: Path, home: Path, tmp_path: Path, first_run: str
) -> None:
    other = overrides(tmp_path, train={"seed": 7})

    second = program("run.loop", "--data", str(raw), "--overrides", other, "--train-days", "21", "--no-serve")
    waiting = served_version(home)
    promoted = program("millrace.cli", "promote", "2")
    live = served_version(home)
    rolled_back = program("millrace.cli", "rollback", "--reason", "a test")

    assert second.returncode == 0, second.stderr
    assert "version 2 (challenger)" in second.stdout
    assert (promoted.returncode, rolled_back.returncode) == (0, 0), promoted.stderr + rolled_back.stderr
    assert (waiting, live, served_version(home)) == ("1", "2", "1")


def test_two_versions_are_compared_from_the_prediction_log_once_labels_are_in(
    program: Program, raw: Path, home: Path, tmp_path: Path, url: str, first_run: str
) -> None:
    rows = pq.read_table(max(raw.glob("*.parquet"))).slice(0, 100)
    labels = str(tmp_path / "labels.parquet")
    pq.write_table(rows.select(["transaction_id", "is_fraud"]), labels)
    body = {"instances": [instance(row) for row in rows.to_pylist()]}
    assert program("millrace.cli", "promote", "2").returncode == 0

    def versions() -> set[str]:
        answer = httpx.post(f"{url}/v1/models/fraud-detector:predict", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return {row["model_version"] for row in answer.json()["predictions"]}

    until("version 2 answers", lambda: versions() == {"2"})
    until("its predictions are in the log", lambda: sum(row["model_version"] == "2" for row in logged(home)) >= 100)
    loaded = program("serving.prediction_log", "labels", labels)
    compared = program("run.compare", "1", "2")
    back = program("millrace.cli", "rollback", "--reason", "a test")

    assert (loaded.returncode, compared.returncode, back.returncode) == (0, 0, 0), loaded.stderr + compared.stderr
    assert "100 labels read" in loaded.stdout
    report = json.loads((home / "report" / "fraud" / "comparison.json").read_text())
    assert report["paired_rows"] >= 100
    assert 0.0 <= report["agreement"] <= 1.0
    assert "comparison.html" in (home / "report" / "fraud" / "index.html").read_text()


def test_a_second_workload_lives_in_the_same_home_and_leaves_the_first_alone(
    program: Program, home: Path, tmp_path: Path, url: str, first_run: str
) -> None:
    champion = (home / "serving" / "fraud-detector.yaml").read_bytes()
    store = filled_with(home, "fraud")
    question = {"transaction_id": 10**15 + 9, "customer_id": "17", "terminal_id": "42", "amount": 99.5}
    question |= {"event_timestamp": "2018-05-30T12:00:00Z"}
    until("version 1 answers again", lambda: ask(url, "fraud-detector", question)["model_version"] == "1")
    before = ask(url, "fraud-detector", question)

    raw = tmp_path / "trips"
    raw.mkdir()
    write_trips(WorldConfig(trips_a_day=400, zones=30, days=45), raw)
    second = program("run", "--workload", "trips", "--data", str(raw), "--train-days", "21", "--overrides", TRIPS)
    assert second.returncode == 0, second.stdout + second.stderr
    minutes = ask(url, "trip-duration", {"trip_id": 1, **TRIP})

    assert "trip-duration version 1 (champion)" in second.stdout
    assert "replayed, scores equal" in " ".join(second.stdout.split())
    assert minutes["minutes_low"] <= minutes["minutes"] <= minutes["minutes_high"]
    assert "decision" not in minutes
    assert (home / "serving" / "fraud-detector.yaml").read_bytes() == champion
    assert filled_with(home, "fraud") == store
    assert ask(url, "fraud-detector", question)["score"] == before["score"]
    until("both workloads are in one log", lambda: {len(logged(home)) > 0, len(logged(home, "trips")) > 0} == {True})


TRIP = {"pickup_zone": "74", "dropoff_zone": 41, "passenger_count": 1, "trip_distance": 2.1}
TRIPS = str(SMALL.with_name("small_trips.yaml"))


def ask(url: str, model: str, event: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/models/{model}:predict", json={"instances": [event]}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["predictions"][0]
    return found


def instance(row: dict[str, Any]) -> dict[str, Any]:
    """A raw event as a client sends it."""
    sent = {name: row[name] for name in ("transaction_id", "customer_id", "terminal_id")}
    return sent | {"event_timestamp": row["event_timestamp"].isoformat(), "amount": float(row["amount"])}


def logged(home: Path, workload: str = "fraud") -> list[dict[str, Any]]:
    """The prediction log's rows, without their features."""
    log = engine(Settings(home=home))
    try:
        columns = [load(workload).schema.EVENT_ID, "model_version", "score"]
        found: list[dict[str, Any]] = read_predictions(log, workload, columns=columns).to_pylist()
    finally:
        log.dispose()
    return found


def until(what: str, condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.2)
