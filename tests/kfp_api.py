"""A small HTTP server that keeps what the API of Kubeflow Pipelines (v2beta1) keeps, for kfp's own client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

API = "/apis/v2beta1"


class Host(ThreadingHTTPServer):
    """Pipelines, versions, experiments, runs and schedules in dictionaries.

    A run that is asked after goes through `states` one by one; without any it is in the state that it is given.
    """

    def __init__(self, token: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.kept: dict[str, list[dict[str, Any]]] = {
            "pipelines": [], "versions": [], "experiments": [], "runs": [], "recurringRuns": [],
        }  # fmt: skip
        self.states: list[str] = []
        self.failed_steps: list[str] = []
        self.cookies: list[str] = []

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Newest first."""
        return self.kept["runs"][::-1]

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
                return {"pipeline_versions": [_shown(version) for version in _newest_first(kept["versions"], query)]}
            case "GET", ["experiments"]:
                return {"experiments": _named(kept["experiments"], query)}
            case "POST", ["experiments"]:
                return self._keep("experiments", "experiment_id", json.loads(body))
            case "POST", ["runs"]:
                return self._keep("runs", "run_id", json.loads(body) | {"state": "RUNNING"})
            case "GET", ["runs"]:
                return {"runs": _newest_first(kept["runs"], query)}
            case "GET", ["runs", run_id]:
                return self._run(run_id)
            case "POST", ["runs", one]:
                next(run for run in kept["runs"] if f"{run['run_id']}:terminate" == one)["state"] = "CANCELED"
                return {}
            case "GET", ["recurringruns"]:
                return {"recurringRuns": kept["recurringRuns"]}
            case "POST", ["recurringruns"]:
                return self._keep("recurringRuns", "recurring_run_id", json.loads(body))
            case "DELETE", ["recurringruns", one]:
                kept["recurringRuns"] = [run for run in kept["recurringRuns"] if run["recurring_run_id"] != one]
                return {}
        return 404, {"error": f"{method} {path}"}

    def _run(self, run_id: str) -> dict[str, Any]:
        run, states = next(run for run in self.server.kept["runs"] if run["run_id"] == run_id), self.server.states
        if states:
            run["state"] = states.pop(0) if len(states) > 1 else states[0]
        failed = {"state": "FAILED", "error": {"message": "out of memory"}}
        tasks = [{"display_name": name} | failed for name in self.server.failed_steps]
        train = {"display_name": "train"} | (failed if run["state"] == "FAILED" else {"state": run["state"]})
        return run | {"run_details": {"task_details": tasks or [train]}}

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


def _newest_first(documents: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    return documents[::-1] if query.get("sort_by") == "created_at desc" else documents


def _named(documents: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    wanted = json.loads(query["filter"])["predicates"][0]["stringValue"]
    return [document for document in documents if document["display_name"] == wanted]


def _uploaded(headers: Message, body: bytes) -> str:
    """The file of a multipart upload."""
    message = message_from_bytes(f"content-type: {headers['content-type']}\r\n\r\n".encode() + body)
    return str(message.get_payload()[0].get_payload())


@contextmanager
def kfp_api() -> Iterator[Host]:
    server = Host()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
