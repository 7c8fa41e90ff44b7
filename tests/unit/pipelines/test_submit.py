"""Submitting, against a small HTTP server that keeps what KFP's API (v2beta1) keeps; the client is kfp's own."""

from __future__ import annotations

import json
import threading
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import pytest

from millrace.errors import NotFound, Unavailable
from pipelines import kfp_host, submit

API = "/apis/v2beta1"


class Host(ThreadingHTTPServer):
    """Pipelines, versions, experiments, runs and schedules in dictionaries; runs go through `states` one by one."""

    def __init__(self, token: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.kept: dict[str, list[dict[str, Any]]] = {
            "pipelines": [], "versions": [], "experiments": [], "runs": [], "recurringRuns": [],
        }  # fmt: skip
        self.states = ["RUNNING", "SUCCEEDED"]
        self.cookies: list[str] = []

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

    def do_DELETE(self) -> None:
        self._serve(b"")

    def _serve(self, body: bytes) -> None:
        self.server.cookies.append(self.headers.get("cookie", ""))
        if self.server.token and self.headers.get("authorization") != f"Bearer {self.server.token}":
            return self._answer(401, {"error": "expired"})
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        answer = self._route(self.command, url.path.removeprefix(API), query, body)
        self._answer(*(answer if isinstance(answer, tuple) else (200, answer)))

    def _route(self, method: str, path: str, query: dict[str, str], body: bytes) -> Any:
        kept = self.server.kept
        match method, [part for part in path.split("/") if part]:
            case "GET", ["healthz"]:
                return {"multi_user": False}
            case "GET", ["pipelines"]:
                return {"pipelines": _named(kept["pipelines"], query)}
            case "POST", ["pipelines", "upload"]:
                return self._keep("pipelines", "pipeline_id", {"display_name": unquote(query["name"])})
            case "POST", ["pipelines", "upload_version"]:
                name, package = unquote(query["name"]), _uploaded(self.headers, body)
                return self._keep("versions", "pipeline_version_id", {"display_name": name}, package=package)
            case "GET", ["pipelines", _, "versions"]:
                return {"pipeline_versions": [_shown(version) for version in kept["versions"]]}
            case "GET", ["experiments"]:
                return {"experiments": _named(kept["experiments"], query)}
            case "POST", ["experiments"]:
                return self._keep("experiments", "experiment_id", json.loads(body))
            case "POST", ["runs"]:
                return self._keep("runs", "run_id", json.loads(body))
            case "GET", ["runs", run_id]:
                state = self.server.states.pop(0) if len(self.server.states) > 1 else self.server.states[0]
                task = {"display_name": "train", "state": state}
                if state == "FAILED":
                    task["error"] = {"message": "out of memory"}
                return {"run_id": run_id, "state": state, "run_details": {"task_details": [task]}}
            case "GET", ["recurringruns"]:
                return {"recurringRuns": kept["recurringRuns"]}
            case "POST", ["recurringruns"]:
                return self._keep("recurringRuns", "recurring_run_id", json.loads(body))
            case "DELETE", ["recurringruns", one]:
                kept["recurringRuns"] = [run for run in kept["recurringRuns"] if run["recurring_run_id"] != one]
                return {}
        return 404, {"error": f"{method} {path}"}

    def _keep(self, kind: str, id_name: str, document: dict[str, Any], **hidden: Any) -> dict[str, Any]:
        document = document | {id_name: f"{kind}-{len(self.server.kept[kind]) + 1}"}
        self.server.kept[kind].append(document | {f"_{name}": value for name, value in hidden.items()})
        return document

    def _answer(self, status: int, document: Any) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if not key.startswith("_")}


def _named(documents: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    wanted = json.loads(query["filter"])["predicates"][0]["stringValue"]
    return [document for document in documents if document["display_name"] == wanted]


def _uploaded(headers: Message, body: bytes) -> str:
    """The file of a multipart upload."""
    message = message_from_bytes(f"content-type: {headers['content-type']}\r\n\r\n".encode() + body)
    return str(message.get_payload()[0].get_payload())


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(kfp_host, "POLL_S", 0.01)
    monkeypatch.setattr(kfp_host.wait, "__kwdefaults__", {"poll_s": 0.01})
    server = Host()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def submitted(host: Host, *arguments: str) -> int:
    return submit.main(["training", "--host", host.url, "--param", "source=s3://lake/raw", *arguments])


def test_a_run_is_started_followed_and_its_page_named(host, capsys):
    status = submitted(host, "--param", "train_days=56")

    assert status == 0
    (run,) = host.kept["runs"]
    assert run["runtime_config"]["parameters"] == {"source": "s3://lake/raw", "train_days": 56}
    shown = "".join(capsys.readouterr())
    assert f"{host.url}/#/runs/details/runs-1" in shown
    assert "step=train state=RUNNING" in shown
    assert "run succeeded" in shown


def test_the_uploaded_package_is_the_committed_one(host):
    submitted(host)

    (version,) = host.kept["versions"]
    assert "fraud-training" in version["_package"]
    assert "millrace-pseudonym" in version["_package"]


def test_the_same_package_is_uploaded_once_and_its_experiment_made_once(host):
    submitted(host)
    submitted(host)

    kept = {kind: len(documents) for kind, documents in host.kept.items()}
    assert kept == {"pipelines": 1, "versions": 1, "experiments": 1, "runs": 2, "recurringRuns": 0}


def test_a_schedule_replaces_the_one_of_the_same_name(host):
    submitted(host, "--cron", "0 0 3 * * *")
    submitted(host, "--cron", "0 0 4 * * *")

    (schedule,) = host.kept["recurringRuns"]
    assert schedule["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * *"
    assert int(schedule["max_concurrency"]) == 1
    assert host.kept["runs"] == []


def test_a_failed_run_names_the_step_and_why(host, capsys):
    host.states = ["RUNNING", "FAILED"]

    assert submitted(host) == 1

    assert "train (out of memory)" in capsys.readouterr().err


def test_a_run_that_takes_too_long_is_left_running(host, capsys):
    host.states = ["RUNNING"]

    assert submitted(host, "--timeout", "0.05") == 1

    assert "it goes on" in capsys.readouterr().err


def test_no_wait_returns_at_once(host):
    host.states = ["RUNNING"]

    assert submitted(host, "--no-wait") == 0


def test_an_expired_token_says_how_to_get_one(host, capsys, monkeypatch):
    host.token = "fresh"
    monkeypatch.setenv("MILLRACE_KFP_TOKEN", "stale")

    assert submitted(host) == 1

    error = capsys.readouterr().err
    assert "401" in error
    assert "kubectl create token" in error
    assert "stale" not in error


def test_the_token_and_the_session_reach_the_host(host, monkeypatch):
    host.token = "fresh"
    monkeypatch.setenv("MILLRACE_KFP_TOKEN", "fresh")
    monkeypatch.setenv("MILLRACE_KFP_COOKIES", "authservice_session=abc")

    assert submitted(host) == 0

    assert set(host.cookies) == {"authservice_session=abc"}


def test_an_unreachable_host_says_what_to_do(capsys):
    assert submit.main(["training", "--host", "http://127.0.0.1:9", "--param", "source=x"]) == 1

    assert "kubectl port-forward" in capsys.readouterr().err


def test_a_dry_run_sends_nothing(host):
    assert submitted(host, "--dry-run") == 0

    assert not host.cookies


def test_reports_of_the_run_are_fetched_from_the_pipeline_root(host, tmp_path):
    made = tmp_path / "root" / "fraud-training" / "runs-1" / "evaluate" / "0f3a"
    made.mkdir(parents=True)
    (made / "html").write_text("<html>judged</html>")
    (made / "evaluation").write_text("{}")

    written = kfp_host.fetch(str(tmp_path / "root"), "runs-1", frozenset({"html"}), tmp_path / "reports")

    assert [path.name for path in written] == ["evaluate-html.html"]
    assert written[0].read_text() == "<html>judged</html>"


def test_a_root_without_the_run_is_named(tmp_path):
    with pytest.raises(NotFound, match="nothing of run runs-9"):
        kfp_host.fetch(str(tmp_path), "runs-9", frozenset({"html"}), tmp_path / "reports")


def test_an_answer_of_an_error_is_passed_on(host):
    with pytest.raises(Unavailable, match="answered 404"), kfp_host.answering(host.url):
        kfp_host.connect(host.url, namespace=None, ca_cert=None, verify_tls=True).get_pipeline("gone")
