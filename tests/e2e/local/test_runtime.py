"""The local runtime itself, with servers that start at once: revisions, companions, loggers, several on one machine."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.local.records import command_line
from serving.local.state import LocalState, Place

ROOT = Path(__file__).parents[3]
STUB = str(Path(__file__).with_name("stub_server.py"))

pytestmark = [pytest.mark.e2e]


def inference_service(
    version: str,
    *,
    name: str = "m",
    percent: int | None = None,
    transformer: bool = True,
    slow_s: str = "0",
    **env: str,
) -> dict[str, Any]:
    def container(**more: str) -> dict[str, Any]:
        pairs = [{"name": key, "value": value} for key, value in more.items()]
        return {"name": "kserve-container", "image": "i", "command": ["python", STUB], "env": pairs}

    predictor: dict[str, Any] = {"containers": [container(MODEL_VERSION=version, **env)]}
    if percent is not None:
        predictor["canaryTrafficPercent"] = percent
    metadata = {"name": name, "annotations": {"millrace.io/model-version": version}}
    spec = {"predictor": predictor} | (
        {"transformer": {"containers": [container(DELAY_S=slow_s)]}} if transformer else {}
    )
    return {"kind": "InferenceService", "metadata": metadata, "spec": spec}


def program(name: str) -> dict[str, Any]:
    container = {"name": name, "image": "i", "command": ["python", STUB], "args": ["--http_port=8080"]}
    return {
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


@dataclass
class Runtime:
    place: Place
    gateway_port: int = 19080
    env: dict[str, str] = field(default_factory=dict)

    def local(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {
            "MILLRACE_HOME": str(self.place.home),
            "MILLRACE_GATEWAY_PORT": str(self.gateway_port),
            "MILLRACE_MODEL_NAME": "m",
            "MILLRACE_COMPANIONS": "",
            "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
        }
        command = [sys.executable, "-m", "serving.local", *arguments]
        return subprocess.run(command, env=env | self.env, capture_output=True, text=True, timeout=60, check=False)

    def up(self) -> None:
        done = self.local("up")
        assert done.returncode == 0, done.stderr

    def write(self, document: dict[str, Any]) -> None:
        """Aside, then renamed, as promotion does."""
        path = self.place.folder / f"{document['metadata']['name']}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(yaml.safe_dump(document))
        path.with_suffix(".new").replace(path)

    @property
    def state(self) -> LocalState:
        state = self.place.read()
        assert state is not None
        return state

    def revisions(self, name: str = "m") -> list[tuple[str, int]]:
        service = self.state.find(name)
        return [(item.model_version, item.percent) for item in service.revisions] if service else []

    def ask(self, name: str = "m", **headers: str) -> tuple[int, dict[str, Any]]:
        return call(self.state.gateway_port, "POST", f"/v1/models/{name}:predict", **headers)


def call(port: int, method: str, path: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, b"{}", {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def wait(what: str, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.02)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(Place(tmp_path / "home"))
    yield runtime
    runtime.local("down")
    assert not runtime.place.alive()


class Asking:
    """Asks without pause while the body runs; what did not come back with 200 is in `failures`."""

    def __init__(self, runtime: Runtime) -> None:
        self.versions: Counter[str] = Counter()
        self.failures: list[Any] = []
        self._port = runtime.state.gateway_port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                status, answer = call(self._port, "POST", "/v1/models/m:predict")
                if status == 200:
                    self.versions[answer["version"]] += 1
                else:
                    self.failures.append(answer)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_canary_is_split_moved_rolled_out_and_another_one_rolled_back_without_a_failed_request(runtime):
    runtime.write(inference_service("1"))
    runtime.up()
    with Asking(runtime) as users:
        runtime.write(inference_service("2", percent=50))
        wait("the split", lambda: runtime.revisions() == [("1", 50), ("2", 50)])
        wait("answers of both", lambda: users.versions["2"] > 20)
        runtime.write(inference_service("2", percent=0))
        wait("no traffic", lambda: runtime.revisions() == [("1", 100), ("2", 0)])
        runtime.write(inference_service("2"))
        wait("rolled out", lambda: runtime.revisions() == [("2", 100)])
        runtime.write(inference_service("3", percent=10))
        wait("the next canary", lambda: runtime.revisions() == [("2", 90), ("3", 10)])
        runtime.write(inference_service("2", percent=0))
        wait("rolled back", lambda: runtime.revisions() == [("2", 100)])

    names = [item.name for item in runtime.state.services[0].revisions]
    status = runtime.local("status").stdout
    counted = 'revision_request_count{service_name="m",revision_name="m-predictor-00002",response_code_class="2xx"}'
    assert users.failures == []
    assert names == ["m-predictor-00002"]
    assert "m-predictor-00002" in status
    assert "100 %" in status
    assert counted in metrics(runtime)


def metrics(runtime: Runtime) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", runtime.state.gateway_port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_a_runtime_that_starts_in_the_middle_of_a_canary_runs_both_revisions(runtime):
    runtime.write(inference_service("1"))
    runtime.up()
    runtime.write(inference_service("2", percent=30))
    wait("the split", lambda: runtime.revisions() == [("1", 70), ("2", 30)])
    runtime.local("down")

    runtime.up()

    with Asking(runtime) as users:
        wait("answers of both", lambda: set(users.versions) == {"1", "2"})
    assert runtime.revisions() == [("1", 70), ("2", 30)]
    assert users.failures == []


def test_a_changed_transformer_starts_beside_the_old_one_which_answers_what_it_has(runtime):
    """The stub ends at once on SIGTERM, so that a request which it still had would be lost."""
    runtime.write(inference_service("1", slow_s="0.2"))
    runtime.up()
    pid = runtime.state.processes[1].pid
    changed = inference_service("1", slow_s="0.1")

    with Asking(runtime) as users:
        runtime.write(changed)
        wait("another process", lambda: runtime.state.processes[1].pid not in (0, pid))
        runtime.up()

    assert users.failures == []
    assert runtime.state.processes[1].restarts == 0


def test_a_service_that_gets_a_transformer_later_answers_through_it(runtime):
    runtime.write(inference_service("1", transformer=False))
    runtime.up()
    port = runtime.state.services[0].port

    with Asking(runtime) as users:
        runtime.write(inference_service("1"))
        runtime.up()

    service = runtime.state.services[0]
    assert users.failures == []
    assert [process.role for process in runtime.state.processes[:2]] == ["predictor", "transformer"]
    assert service.port != port
    assert call(service.port, "POST", "/v1/models/m:predict")[0] == 200


def test_a_revision_that_cannot_start_is_reported_and_the_old_one_goes_on(runtime):
    runtime.write(inference_service("1"))
    runtime.up()
    runtime.write(inference_service("2", BROKEN="1"))

    done = runtime.local("up")

    assert done.returncode == 1
    assert "broken on purpose" in done.stderr
    assert runtime.ask()[1]["version"] == "1"


def test_a_manifest_that_is_wrong_changes_nothing_until_it_is_right(runtime):
    runtime.write(inference_service("1"))
    runtime.up()
    wrong = inference_service("2")
    wrong["spec"]["explainer"] = {}

    runtime.write(wrong)
    wait("the refusal", lambda: "explainer" in runtime.state.services[0].error)
    status = runtime.local("status").stdout
    answered = runtime.ask()[1]["version"]
    runtime.write(inference_service("2"))
    wait("the next", lambda: runtime.revisions() == [("2", 100)])

    assert "spec.explainer is not supported" in status.replace("\n", " ") or "explainer" in status
    assert answered == "1"
    assert runtime.state.services[0].error == ""


def test_what_lies_beside_the_manifest_runs_too_and_is_found_by_its_cluster_name(runtime):
    main = inference_service("1")
    address = {"name": "NEIGHBOURS", "value": "http://sink.millrace.svc.cluster.local:8080/,http://none:1/"}
    main["spec"]["transformer"]["containers"][0]["env"] = [address]
    main["spec"]["transformer"]["logger"] = {"url": "http://sink.millrace.svc.cluster.local", "mode": "all"}
    runtime.write(main)
    runtime.write(program("sink"))
    runtime.write(inference_service("7", name="shadow", transformer=False))
    runtime.up()

    _, answer = runtime.ask(ce_id="event-1")
    _, shadow = runtime.ask("shadow")

    port = runtime.state.find("sink").port
    assert answer["neighbours"] == f"http://127.0.0.1:{port}/"
    assert shadow["version"] == "7"
    wait("two events", lambda: len(call(port, "GET", "/received")[1]) >= 2)
    events = {item["type"]: item for item in call(port, "GET", "/received")[1]}
    assert set(events) == {f"org.kubeflow.serving.inference.{kind}" for kind in ("request", "response")}
    assert {item["id"] for item in events.values()} == {"event-1"}
    assert json.loads(events["org.kubeflow.serving.inference.response"]["body"])["version"] == "1"
    (runtime.place.folder / "shadow.yaml").unlink()
    wait("the shadow's end", lambda: runtime.state.find("shadow") is None)


def test_two_runtimes_live_on_one_machine(runtime, tmp_path):
    other = Runtime(Place(tmp_path / "other"), runtime.gateway_port)
    runtime.write(inference_service("1"))
    other.write(inference_service("2"))
    try:
        runtime.up()
        other.up()

        assert runtime.state.gateway_port != other.state.gateway_port
        assert (runtime.ask()[1]["version"], other.ask()[1]["version"]) == ("1", "2")
        runtime.local("down")
        assert other.ask()[1]["version"] == "2"
    finally:
        other.local("down")


def test_a_server_whose_port_was_taken_meanwhile_comes_back_on_another(runtime):
    runtime.write(inference_service("1"))
    runtime.up()
    process = runtime.state.processes[0]
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def took_the_port() -> bool:
            with suppress(ProcessLookupError):  # again, where it was back before we were here
                os.kill(runtime.state.processes[0].pid or process.pid, signal.SIGKILL)
            with suppress(OSError):
                taker.bind(("127.0.0.1", process.http_port))
                return True
            return False

        wait("the port", took_the_port)
        taker.listen()
        wait("readiness", lambda: runtime.state.state == "ready" and runtime.state.processes[0].pid != process.pid)

        assert runtime.state.processes[0].http_port != process.http_port
        assert runtime.ask()[1]["version"] == "1"


def test_a_killed_supervisor_costs_no_request_and_the_next_one_goes_on(runtime):
    runtime.write(inference_service("1"))
    runtime.up()
    before = runtime.state
    with Asking(runtime) as users:
        os.kill(before.pid, signal.SIGKILL)
        wait("the next one", lambda: runtime.state.pid != before.pid and runtime.state.state == "ready")
        after = runtime.state
        runtime.write(inference_service("2"))
        wait("what it follows", lambda: runtime.revisions() == [("2", 100)])

    assert users.failures == []
    assert [process.pid for process in after.processes] == [process.pid for process in before.processes]
    assert after.gateway_port == before.gateway_port


def test_what_outlives_watch_and_supervisor_is_taken_over_by_up_and_ended_by_down(runtime):
    runtime.write(inference_service("1"))
    runtime.up()
    before = runtime.state

    def kill_both() -> None:
        for pid in runtime.place.pids():
            os.kill(pid, signal.SIGKILL)
        wait("the end of both", lambda: not runtime.place.alive())

    with Asking(runtime) as users:
        kill_both()
        runtime.up()
    taken_over = [process.pid for process in runtime.state.processes]
    kill_both()
    done = runtime.local("down")

    assert users.failures == []
    assert taken_over == [process.pid for process in before.processes]
    assert done.stdout == "stopped\n"
    assert {command_line(process.pid) for process in before.processes} == {""}
    assert not any(folder.exists() for folder in (runtime.place.envoy, runtime.place.admin.parent))


def test_no_client_notices_when_one_of_two_processes_is_killed(runtime):
    runtime.env = {"MILLRACE_TRANSFORMER_REPLICAS": "2", "MILLRACE_PREDICTOR_REPLICAS": "2"}
    runtime.write(inference_service("1"))
    runtime.up()
    with Asking(runtime) as users:
        for role in ("transformer", "predictor", "transformer", "predictor"):
            process = next(one for one in runtime.state.processes if one.role == role)
            os.kill(process.pid, signal.SIGKILL)
            wait("another one", lambda pid=process.pid: pid not in [one.pid for one in runtime.state.processes])
            wait("readiness", lambda: runtime.state.state == "ready")

    assert users.failures == []
    assert len([one for one in runtime.state.processes if one.role == "transformer"]) == 2


def test_no_more_processes_run_than_a_manifest_allows(runtime):
    runtime.env = {"MILLRACE_TRANSFORMER_REPLICAS": "2", "MILLRACE_PREDICTOR_REPLICAS": "2"}
    document = inference_service("1")
    document["spec"]["predictor"]["maxReplicas"] = 1
    document["spec"]["transformer"]["maxReplicas"] = 4
    runtime.write(document)
    runtime.up()

    roles = [process.role for process in runtime.state.processes]

    assert (roles.count("predictor"), roles.count("transformer")) == (1, 2)


def test_a_killed_envoy_is_back_within_two_seconds(runtime):
    runtime.write(inference_service("1"))
    runtime.up()
    process = next(one for one in runtime.state.processes if one.role == "envoy")

    os.kill(process.pid, signal.SIGKILL)
    began = time.monotonic()
    wait("an answer", lambda: answers(runtime))

    assert time.monotonic() - began < 2


def test_the_commands_trust_the_certificate_that_the_gateway_has(runtime, tmp_path):
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=models.example"]
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    runtime.env = {"MILLRACE_TLS_CERT": str(certificate), "MILLRACE_TLS_KEY": str(key), "MILLRACE_GATEWAY_TOKEN": "s"}
    runtime.write(inference_service("1", name="fraud-detector"))
    runtime.write(inference_service("1"))
    runtime.up()

    said = runtime.local("predict")
    stranger = Runtime(runtime.place, env=runtime.env | {"MILLRACE_GATEWAY_TOKEN": "another"}).local("predict")

    assert runtime.state.url.startswith("https://")
    assert (said.returncode, '"version": "1"' in said.stdout) == (0, True), said.stderr
    assert "MILLRACE_GATEWAY_TOKEN" in stranger.stderr


def test_a_certificate_without_its_key_is_named(runtime, tmp_path):
    runtime.env = {"MILLRACE_TLS_CERT": str(tmp_path / "absent.crt")}
    runtime.write(inference_service("1"))

    done = runtime.local("up")

    assert done.returncode == 1
    assert "MILLRACE_TLS_CERT and MILLRACE_TLS_KEY go together" in done.stderr


def answers(runtime: Runtime) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return runtime.ask()[0] == 200
    return False


def test_a_companion_whose_environment_is_absent_is_skipped_with_the_reason(runtime):
    runtime.env = {"MILLRACE_COMPANIONS": "drift-detector"}
    if (Path(STUB).parents[3] / ".venv-drift").exists():
        pytest.skip("the drift detector's environment is here")
    runtime.write(inference_service("1"))

    runtime.up()

    skipped = runtime.state.find("drift-detector")
    assert (skipped.state, ".venv-drift is absent" in skipped.error) == ("skipped", True)


def test_what_watches_comes_after_what_answers(runtime):
    runtime.env = {"MILLRACE_COMPANIONS": "prediction-log"}
    runtime.write(inference_service("1"))

    runtime.up()

    def nice() -> dict[str, int]:
        return {one.service: os.getpriority(os.PRIO_PROCESS, one.pid) for one in runtime.state.processes if one.pid}

    wait("the prediction log's process", lambda: "prediction-log" in nice())
    own = os.getpriority(os.PRIO_PROCESS, 0)
    found = nice()
    assert (found.pop("prediction-log"), set(found.values())) == (min(own + 10, 19), {own})
    watching = next(one.pid for one in runtime.state.processes if one.service == "prediction-log")
    # Where sessions are grouped, a niceness within one's own counts for nothing.
    session = Path(f"/proc/{watching}/autogroup")
    assert not session.is_file() or session.read_text(encoding="utf-8").split()[-2:] == ["nice", "10"]


def test_a_graph_sends_each_segment_to_its_model(runtime):
    runtime.write(inference_service("1", name="fraud-detector", transformer=False))
    runtime.write(inference_service("2", name="fraud-detector-business", transformer=False))
    runtime.write(inference_service("3", name="fraud-detector-travel", transformer=False))
    (runtime.place.folder / "m.yaml").write_text(yaml.safe_dump(inference_service("0", transformer=False)))
    example = Path(STUB).parents[3] / "manifests" / "workloads" / "fraud" / "examples" / "inference-graph.yaml"
    (runtime.place.folder / "graph.yaml").write_text(example.read_text())
    runtime.up()

    def ask(document: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", runtime.state.gateway_port, timeout=30)
        connection.request("POST", "/graphs/fraud-by-segment", json.dumps(document))
        answer = connection.getresponse()
        found = (answer.status, json.loads(answer.read()))
        connection.close()
        return found

    versions = [
        ask({"inputs": []} | ({"parameters": {"segment": segment}} if segment else {}))[1]["version"]
        for segment in ("business", "travel", "retail", None)
    ]

    assert versions == ["2", "3", "1", "1"]
    assert ask({"instances": []})[0] == 404
