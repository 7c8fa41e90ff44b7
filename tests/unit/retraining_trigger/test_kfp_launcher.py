"""Retrainings at Kubeflow Pipelines, against a small HTTP server that keeps what its API keeps; the client is kfp's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from millrace.errors import NotFound, Unavailable
from millrace.registry import Served
from millrace.settings import Settings
from serving.retraining_trigger import kfp_launcher
from serving.retraining_trigger.kfp_launcher import EXPERIMENT, PIPELINE, KfpLauncher, name_of


class Host(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pipelines = [{"display_name": PIPELINE, "pipeline_id": "p1"}]
        self.runs: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.failed_steps: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("content-length", 0))))

    def _serve(self, body: bytes) -> None:
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        data = json.dumps(self._route(url.path.removeprefix("/apis/v2beta1/"), query, body)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self, path: str, query: dict[str, str], body: bytes) -> Any:
        host = self.server
        match self.command, path.split("/"):
            case "GET", ["pipelines"]:
                wanted = json.loads(query["filter"])["predicates"][0]["stringValue"]
                return {"pipelines": [item for item in host.pipelines if item["display_name"] == wanted]}
            case "GET", ["pipelines", "p1", "versions"]:
                assert query["sort_by"] == "created_at desc"
                return {"pipeline_versions": [{"pipeline_version_id": "v9", "display_name": "newest"}]}
            case "GET", ["experiments"]:
                return {"experiments": host.experiments}
            case "POST", ["experiments"]:
                host.experiments = [json.loads(body) | {"experiment_id": "x1"}]
                return host.experiments[0]
            case "POST", ["runs"]:
                host.runs.insert(0, json.loads(body) | {"run_id": f"r{len(host.runs)}", "state": "RUNNING"})
                return host.runs[0]
            case "GET", ["runs"]:
                return {"runs": host.runs}
            case "GET", ["runs", run_id]:
                tasks = [{"display_name": name, "state": "FAILED"} for name in host.failed_steps]
                return next(run for run in host.runs if run["run_id"] == run_id) | {
                    "run_details": {"task_details": tasks}
                }
            case "POST", ["runs", one]:
                next(run for run in host.runs if f"{run['run_id']}:terminate" == one)["state"] = "CANCELED"
        return {}


@pytest.fixture
def host() -> Iterator[Host]:
    server = Host()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def launcher(host: Host, home: Settings, monkeypatch: pytest.MonkeyPatch) -> KfpLauncher:
    monkeypatch.setattr(kfp_launcher, "served", lambda _: Served(3, "file:///model", "artifact-3"))
    settings = home.model_copy(update={"kfp_host": host.url, "retraining_source": "s3://lake/raw"})
    return KfpLauncher(settings)


def test_a_run_of_the_newest_version_gets_champion_source_and_reason(launcher: KfpLauncher, host: Host) -> None:
    launcher.start("drift-1", "drift: amount moved")

    (run,) = host.runs
    parameters = run["runtime_config"]["parameters"]
    assert run["display_name"] == name_of("drift-1")
    assert run["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "v9"}
    assert (parameters["champion"], parameters["source"]) == ("artifact-3", "s3://lake/raw")
    assert parameters["reason"] == "drift: amount moved"
    assert host.experiments[0]["display_name"] == EXPERIMENT
    assert launcher.status("drift-1").where == "running"


def test_starting_twice_starts_once_and_never_two_at_once(launcher: KfpLauncher, host: Host) -> None:
    launcher.start("a", "")
    launcher.start("a", "")

    with pytest.raises(Unavailable, match="one retraining at a time"):
        launcher.start("b", "")

    assert len(host.runs) == 1


def test_a_gate_that_said_no_is_a_decline_and_another_step_a_failure(launcher: KfpLauncher, host: Host) -> None:
    launcher.start("a", "")
    host.runs[0]["state"] = "FAILED"

    host.failed_steps = [PIPELINE, "gate-challenger"]
    declined = launcher.status("a")
    host.failed_steps = ["train"]
    failed = launcher.status("a")

    assert (declined.where, declined.outcome) == ("ended", "declined")
    assert failed.outcome == "failed"
    assert "train" in failed.detail


def test_one_that_is_given_up_is_terminated_and_an_unknown_one_absent(launcher: KfpLauncher, host: Host) -> None:
    launcher.start("a", "")

    launcher.stop("a")

    assert host.runs[0]["state"] == "CANCELED"
    assert launcher.status("a").outcome == "failed"
    assert launcher.status("b").where == "absent"


def test_a_pipeline_that_was_not_uploaded_is_said(launcher: KfpLauncher, host: Host) -> None:
    host.pipelines = []

    with pytest.raises(NotFound, match="Upload it"):
        launcher.start("a", "")


def test_a_host_that_is_away_is_unavailable(home: Settings) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        KfpLauncher(home.model_copy(update={"kfp_host": "http://127.0.0.1:9"})).status("a")
