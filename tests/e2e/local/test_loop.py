"""The story of a newcomer: `make run` on a small simulation, real pipeline and real servers, and what follows from it.

One home for the whole module; the tests run in order and each tells what a user does next.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from onnx import helper, numpy_helper
from riders import Riders, answers, arrive, trips_of

from components.promote.render import inference_service
from fraud.simulator import SimulationConfig, write
from millrace.events.log import engine
from millrace.events.stream import open_stream
from millrace.events.table import read_predictions
from millrace.installed import load
from millrace.lake.feast_home import fill_of, generations, repository
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.model_spec import generation_of
from millrace.registry.models import Registry
from millrace.registry.retraining import outcome_of
from millrace.rollout import service as templates
from millrace.settings import Settings
from serving.retraining_trigger.listener import GROUP
from trips.world import WorldConfig
from trips.world import write as write_trips

SMALL = Path(__file__).with_name("small.yaml")
WORLD = SimulationConfig(customers=400, terminals=800, days=60, seed=3)
OTHER = replace(WORLD, seed=4)
"""Events of the same names, which have another history."""
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop") / "home"


@pytest.fixture(scope="module")
def raw(home: Path) -> Path:
    folder = home / "raw" / "fraud" / "small"  # where a home keeps its own world, which is judged by its own limits
    folder.mkdir(parents=True)
    write(WORLD, folder)
    return folder


@pytest.fixture(scope="module")
def program(home: Path) -> Iterator[Program]:
    """`program("run.loop", …)` runs a module in the home, as make does."""
    env = os.environ | {"MILLRACE_HOME": str(home), "MILLRACE_GATEWAY_PORT": str(free_port())}
    env |= {"PYTHONWARNINGS": "ignore"}

    def run(module: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, env=env | more, capture_output=True, text=True, timeout=600, check=False)

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


def test_a_file_scored_without_a_server_has_the_scores_that_were_served(
    program: Program, raw: Path, home: Path, tmp_path: Path, first_run: str
) -> None:
    day = json.loads((home / "serving" / "replay" / "fraud-detector.json").read_text())["day"]
    rows = pq.read_table(raw / f"{day}.parquet")
    labels = [name for name in rows.column_names if "fraud" in name.lower() or name == "label_timestamp"]
    pq.write_table(rows.drop_columns(labels), tmp_path / "rows.parquet")

    done = program("millrace.cli", "score", str(tmp_path / "rows.parquet"))

    assert done.returncode == 0, done.stderr
    assert "scored by version 1" in done.stderr
    found = pq.read_table(tmp_path / "rows.scores.parquet")
    offline = dict(zip(found["transaction_id"].to_pylist(), found["score"].to_pylist(), strict=True))
    served = {row["transaction_id"]: row["score"] for row in logged(home) if row["transaction_id"] in offline}
    assert len(served) > 300
    assert max(abs(served[one] - offline[one]) for one in served) < 1e-4


def test_a_model_that_is_not_good_enough_is_not_promoted(
    program: Program, raw: Path, home: Path, tmp_path: Path, first_run: str
) -> None:
    strict = overrides(tmp_path, evaluate={"min_average_precision": 0.999})

    blocked = program("run.loop", "--data", str(raw), "--overrides", strict, "--train-days", "21")

    assert blocked.returncode == 1
    assert "Blocked by the evaluation gate" in blocked.stderr
    assert "1. average_precision, " in blocked.stderr
    assert "wanted at least 0.999" in blocked.stderr
    assert "--accept 'average_precision=REASON'" in " ".join(blocked.stderr.split())
    assert "Traceback" not in blocked.stderr
    assert served_version(home) == "1"
    page = (home / "report" / "fraud" / "index.html").read_text()
    assert page.index("This run was blocked") < page.index("average_precision, ") < page.index("Runs before")
    assert 'href="run-2' in page


def test_runs_on_other_data_killed_and_refused_leave_served_scores_alone_to_the_digit(
    program: Program, raw: Path, home: Path, tmp_path: Path, url: str, first_run: str
) -> None:
    champion = generation_of(Manifest.lying_in(Registry(Settings(home=home)).folder(1), "model"))
    held = fill_of(repository(home, "fraud", champion))
    known = set(generations(home, "fraud"))
    rows = pq.read_table(max(raw.glob("*.parquet"))).slice(0, 20).to_pylist()
    before = tried(url, rows)
    other = tmp_path / "other"
    other.mkdir()
    write(OTHER, other)
    strict = overrides(tmp_path, train={"epochs": 1}, evaluate={"min_average_precision": 0.999, "resamples": 20})
    asked = ("--data", str(other), "--overrides", strict, "--train-days", "21", "--profile", "simulated")

    def others() -> set[str]:
        return set(generations(home, "fraud")) - known

    with killed_when("a generation is being filled", home, others, *asked):
        assert tried(url, rows) == before
    (torn,) = others()
    refused = program("run.loop", *asked)

    assert refused.returncode == 1
    assert "= build-features (nothing changed)" in refused.stdout
    assert "Blocked by the evaluation gate" in refused.stderr
    assert tried(url, rows) == before
    assert [answer["degraded"] for answer in before] == [False] * 20
    assert len({answer["score"] for answer in before}) > 10
    assert (served_version(home), fill_of(repository(home, "fraud", champion))) == ("1", held)
    filled = fill_of(repository(home, "fraud", torn))
    assert held is not None
    assert filled is not None
    assert (others(), filled.id == held.id) == ({torn}, False)


def test_data_in_another_unit_is_stopped_before_features_are_built(
    program: Program, raw: Path, home: Path, tmp_path: Path, first_run: str
) -> None:
    for path in sorted(raw.glob("*.parquet")):
        table = pq.read_table(path)
        if path.stem >= "2018-05-24":
            in_cents = pc.multiply(table["amount"].cast("float64"), 100.0)
            table = table.set_column(table.column_names.index("amount"), "amount", in_cents)
        pq.write_table(table, tmp_path / path.name)

    blocked = program(
        "run.loop", "--data", str(tmp_path), "--overrides", str(SMALL), "--train-days", "21", "--profile", "simulated"
    )

    assert blocked.returncode == 1
    assert "Blocked by the data gate" in blocked.stderr
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
    held = generation_of(Manifest.lying_in(Registry(Settings(home=home)).folder(1), "model"))
    store = fill_of(repository(home, "fraud", held))
    question = {"transaction_id": 10**15 + 9, "customer_id": "17", "terminal_id": "42", "amount": 99.5}
    question |= {"event_timestamp": "2018-05-30T12:00:00Z"}
    until("version 1 answers again", lambda: ask(url, "fraud-detector", question)["model_version"] == "1")
    before = ask(url, "fraud-detector", question)

    raw = tmp_path / "trips"
    raw.mkdir()
    write_trips(CITY, raw)
    second = program(
        "run",
        "--workload",
        "trips",
        "--data",
        str(raw),
        "--train-days",
        "21",
        "--overrides",
        TRIPS,
        "--profile",
        "simulated",
    )
    assert second.returncode == 0, second.stdout + second.stderr
    minutes = ask(url, "trip-duration", {"trip_id": 1, **TRIP})

    assert "trip-duration version 1 (champion)" in second.stdout
    assert "replayed, scores equal" in " ".join(second.stdout.split())
    assert minutes["minutes_low"] <= minutes["minutes"] <= minutes["minutes_high"]
    assert "decision" not in minutes
    assert (home / "serving" / "fraud-detector.yaml").read_bytes() == champion
    assert fill_of(repository(home, "fraud", held)) == store
    assert ask(url, "fraud-detector", question)["score"] == before["score"]
    until("both workloads are in one log", lambda: {len(logged(home)) > 0, len(logged(home, "trips")) > 0} == {True})


def test_a_version_that_is_further_off_is_rolled_back_by_the_labels_of_minutes(
    program: Program, home: Path, tmp_path: Path, url: str, first_run: str
) -> None:
    registry = Registry(settings_of(home))
    aliases = registry.aliases()
    policy = policy_of(tmp_path, max_score_psi=50.0)  # scores alone would tell, before anybody has arrived
    version = challenger_of_trips(home, factor=1.7)

    with Riders(url, home, trips_of(CITY, 44), first_id=10**9) as riders:
        started = program("serving.rollout", "--workload", "trips", "--start", "--policy", policy)
        ended = program("serving.rollout", "--workload", "trips", "--until-end", "--every=0.3", "--policy", policy)

    assert (started.returncode, ended.returncode) == (0, 2), started.stderr + ended.stderr
    assert riders.failures == []
    assert riders.versions[str(version)] > 0
    assert "error ratio" in registry.history()[-1]["reason"]
    assert registry.was_rejected(version)
    assert registry.aliases() == aliases


def test_a_slower_city_is_an_alarm_then_a_retraining_then_a_new_champion(
    program: Program, home: Path, tmp_path: Path, url: str, first_run: str
) -> None:
    fraud = (home / "serving" / "fraud-detector.yaml").read_bytes()
    registry = Registry(settings_of(home))
    champion = registry.aliases()["champion"]
    days = [trips_of(SLOWER, day) for day in range(CITY.days, SLOWER.days)]
    for asked, known in days:
        for first in range(0, len(asked), 100):
            answers(url, asked[first : first + 100])
        arrive(home, known)
    asked_of = {trip["trip_id"] for asked, _ in days for trip in asked}
    until("the log has what was answered", lambda: asked_of <= {row["trip_id"] for row in logged(home, "trips")})

    with trigger(home, tmp_path) as trigger_url:
        env = {"MILLRACE_RETRAINING_TRIGGER_URL": trigger_url}
        judged = program("run.monitor", "--workload", "trips", "--as-of", AFTERWARDS, **env)
        assert judged.returncode == 3, judged.stdout + judged.stderr
        until("the retraining has ended", lambda: bool(retrainings(trigger_url)), 600)
        (retraining,) = retrainings(trigger_url)
    with Riders(url, home, days[-1], first_id=2 * 10**9) as riders:
        policy = policy_of(tmp_path)
        ended = program("serving.rollout", "--workload", "trips", "--until-end", "--every=0.3", "--policy", policy)

    assert f"FAIL  error_growth[v{champion}]" in judged.stdout
    # The drift detector may have been faster than the labels: either alarm is a reason.
    assert any(alarm in retraining["reason"] for alarm in (f"error_growth[v{champion}]", "drift: "))
    assert (retraining["outcome"], ended.returncode) == ("promoted", 0), retraining["detail"] + ended.stderr
    assert riders.failures == []
    assert registry.aliases() == {"champion": int(retraining["detail"].split()[1]), "previous": champion}
    assert "error ratio" in registry.history()[-1]["reason"]
    assert (home / "serving" / "fraud-detector.yaml").read_bytes() == fraud


CITY = WorldConfig(trips_a_day=400, zones=30, days=45)
SLOWER = replace(CITY, days=54, slower_from_day=CITY.days)
"""Everything takes a third longer from the day on that the first model has not seen."""
AFTERWARDS = str(SLOWER.start + timedelta(days=SLOWER.days))
TRIP = {"pickup_zone": "74", "dropoff_zone": 41, "passenger_count": 1, "trip_distance": 2.1}
TRIPS = str(SMALL.with_name("small_trips.yaml"))


def settings_of(home: Path) -> Settings:
    return Settings(home=home, workload="trips", model_name="trip-duration")


def policy_of(folder: Path, **limits: float) -> str:
    """A canary's policy for a few minutes of a busy machine."""
    patient = {
        "min_sample": 15,
        "min_sample_to_judge": 10,
        "min_step_s": 0,
        "max_step_s": 600,
        "min_labelled_errors": 60,
    }
    patient |= {"max_latency_ratio": 10, "latency_slack_ms": 500}
    path = folder / "rollout.yaml"
    path.write_text(yaml.safe_dump(patient | limits))
    return str(path)


def challenger_of_trips(home: Path, factor: float) -> int:
    """The champion again, whose answers are `factor` times as long."""
    registry, name = Registry(settings_of(home)), f"{factor} times as long"
    version = registry.register(name, {}).version
    folder = registry.folder(version)
    shutil.copytree(registry.folder(registry.aliases()["champion"]), folder)
    model = onnx.load(folder / "model.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    for answer in ("score", "low", "high"):
        for node in model.graph.node:
            for names in (node.input, node.output):
                for place in [place for place, name in enumerate(names) if name == answer]:
                    names[place] = f"usual_{answer}"
        model.graph.node.append(helper.make_node("Mul", [f"usual_{answer}", "factor"], [answer]))
    onnx.save(model, folder / "model.onnx")
    champion = Manifest.lying_in(folder, "model")
    (folder / "manifest.json").unlink()
    replace(champion, id=name, files=hash_files(folder)).write()
    text = inference_service(templates.inference_service(load("trips")), version, registry.uri(version))
    registry.rendered_path(version).write_text(text)
    return registry.admit(version).version


@contextmanager
def trigger(home: Path, folder: Path) -> Iterator[str]:
    """The retraining trigger of a home, on what the slower city delivers; its URL."""
    raw, port = home / "raw" / "trips" / "slower", free_port()
    raw.mkdir(parents=True)
    write_trips(SLOWER, raw)
    limits = yaml.safe_load(Path(TRIPS).read_text(encoding="utf-8"))
    limits["validate"]["max_value_ks"] = 0.35  # a third longer is another distribution to the data gate
    changed = folder / "slower.yaml"
    changed.write_text(yaml.safe_dump(limits))
    env = os.environ | {
        "MILLRACE_HOME": str(home),
        "MILLRACE_WORKLOAD": "trips",
        "MILLRACE_RETRAINING_SOURCE": str(raw),
        "MILLRACE_RETRAINING_OVERRIDES": str(changed),
        "MILLRACE_RETRAINING_TRAIN_DAYS": "21",
        "MILLRACE_RETRAINING_DEBOUNCE_S": "0",
        "PYTHONWARNINGS": "ignore",
    }
    forget_alarms(home)  # of the tests before: each would be a retraining of its own
    command = [sys.executable, "-m", "serving.retraining_trigger", f"--http_port={port}", "--host=127.0.0.1"]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
        try:
            until("the trigger listens", lambda: healthy(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def forget_alarms(home: Path) -> None:
    """Take all alarms that the stream of a home holds, as if a trigger had dealt with them."""
    stream = open_stream(settings_of(home))
    while alarms := stream.read(GROUP, "a test", 100, 0):
        stream.acknowledge(GROUP, [alarm.position for alarm in alarms])
    stream.close()


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def retrainings(trigger_url: str) -> list[dict[str, Any]]:
    """Those of trips that have ended."""
    found: list[dict[str, Any]] = httpx.get(f"{trigger_url}/v1/status?workload=trips").json()["history"]
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def ask(url: str, model: str, event: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/models/{model}:predict", json={"instances": [event]}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["predictions"][0]
    return found


def tried(url: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to raw events, of which the servers remember nothing."""
    body, trial = {"instances": [instance(row) for row in rows]}, {"X-Millrace-Dry-Run": "true"}
    answer = httpx.post(f"{url}/v1/models/fraud-detector:predict", json=body, headers=trial, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["predictions"]
    return found


@contextmanager
def killed_when(what: str, home: Path, condition: Callable[[], object], *arguments: str) -> Iterator[None]:
    """A run and all that it started, killed once `condition` holds."""
    command = [sys.executable, "-m", "run.loop", *arguments]
    env = os.environ | {"MILLRACE_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=env, start_new_session=True, stdout=quiet, stderr=quiet) as process:
        try:
            until(what, lambda: bool(condition()) or process.poll() is not None, 300)
            assert process.poll() is None, f"ended before {what}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    yield


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
