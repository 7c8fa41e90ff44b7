"""A small Kubernetes API server for tests: keeps objects, validates them against the real schemas, over real HTTP.

It knows create, get, list by label, merge patch and delete, 404, 409 and 422, and pods with logs that a test puts in.
What an operator does to an object (`conditions`) the test does, in its place.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import jsonschema
import yaml

SCHEMAS = Path(os.environ.get("MILLRACE_SCHEMAS", Path(__file__).parents[2] / "shared" / "schemas"))


class KubernetesApi(ThreadingHTTPServer):
    """Serves on loopback from `with KubernetesApi.running(folder) as api`; `api.kubeconfig` is how clients find it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        """(plural, name) → object."""
        self.pods: list[dict[str, Any]] = []
        self.logs: dict[str, str] = {}
        self.deleted: list[tuple[str, str]] = []
        self.requests: list[tuple[str, str]] = []
        """(method, path) of everything asked so far."""
        self.refuse: list[int] = []
        """Statuses to answer the next requests with, instead of doing anything."""
        self.lock = threading.Lock()
        self._versions = iter(range(1, 1 << 30))

    @classmethod
    @contextmanager
    def running(cls, folder: Path):
        api = cls()
        thread = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        api.kubeconfig = folder / "kubeconfig"
        api.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(f"http://127.0.0.1:{api.server_address[1]}")))
        try:
            yield api
        finally:
            api.shutdown()
            thread.join()
            api.server_close()

    def set_condition(self, plural: str, name: str, type_: str, message: str = "") -> None:
        """What the operator writes when a job comes to `type_`."""
        condition = {"type": type_, "status": "True", "reason": type_, "message": message}
        with self.lock:
            status = self.objects[plural, name].setdefault("status", {})
            status.setdefault("conditions", []).append(condition)

    def add_pod(self, name: str, phase: str, labels: dict[str, str], *, log: str = "", **status: Any) -> None:
        metadata = {"name": name, "labels": labels}
        self.pods = [pod for pod in self.pods if pod["metadata"]["name"] != name]
        self.pods.append({"metadata": metadata, "status": {"phase": phase, **status}})
        self.logs[name] = log

    def stamp(self, document: dict[str, Any]) -> dict[str, Any]:
        document["metadata"]["resourceVersion"] = str(next(self._versions))
        return document


class _Handler(BaseHTTPRequestHandler):
    server: KubernetesApi

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with self.server.lock:
            self.server.requests.append((self.command, url.path))
            if self.server.refuse:
                return self._answer(self.server.refuse.pop(0), {"message": "refused"})
            self._answer(*self._route(url.path.strip("/").split("/"), query, body))

    def _route(self, parts: list[str], query: dict[str, str], body: bytes) -> tuple[int, Any]:
        match self.command, parts:
            case "GET", ["api", "v1", "namespaces", _, "pods"]:
                return 200, {"items": [pod for pod in self.server.pods if _selected(pod, query.get("labelSelector"))]}
            case "GET", ["api", "v1", "namespaces", _, "pods", name, "log"]:
                return 200, self.server.logs[name]
            case "POST", ["apis", group, version, "namespaces", _, plural]:
                return self._create(group, version, plural, json.loads(body))
            case method, ["apis", _, _, "namespaces", _, plural, name]:
                return self._one(method, plural, name, body)
        return 404, {"message": f"{self.command} {'/'.join(parts)}"}

    def _create(self, group: str, version: str, plural: str, document: dict[str, Any]) -> tuple[int, Any]:
        key = plural, document["metadata"]["name"]
        if key in self.server.objects:
            return 409, {"message": f"{key} already exists", "reason": "AlreadyExists"}
        if problem := schema_problem(document):
            return 422, {"message": problem, "reason": "Invalid"}
        self.server.objects[key] = self.server.stamp(document)
        return 201, document

    def _one(self, method: str, plural: str, name: str, body: bytes) -> tuple[int, Any]:
        kept = self.server.objects.get((plural, name))
        if kept is None:
            return 404, {"message": f"{plural} {name!r} not found", "reason": "NotFound"}
        if method == "DELETE":
            self.server.deleted.append((plural, name))
            del self.server.objects[plural, name]
            return 200, {"status": "Success"}
        if method == "GET":
            return 200, kept
        change = json.loads(body)
        wanted = change.get("metadata", {}).get("resourceVersion")
        if wanted not in (None, kept["metadata"]["resourceVersion"]):
            return 409, {"message": "the object has been modified", "reason": "Conflict"}
        new = change if method == "PUT" else _merged(kept, change)
        if problem := schema_problem(new):
            return 422, {"message": problem, "reason": "Invalid"}
        self.server.objects[plural, name] = self.server.stamp(new)
        return 200, new

    def _answer(self, status: int, document: Any) -> None:
        text = isinstance(document, str)
        data = document.encode() if text else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain" if text else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def schema_problem(document: dict[str, Any]) -> str:
    """What the kind's strict schema has against the object; empty when nothing, or without the schemas."""
    group, _, version = document["apiVersion"].rpartition("/")
    path = SCHEMAS / f"{document['kind'].lower()}-{group or 'core'}-{version}.json"
    if not path.is_file():
        return ""
    error = next(jsonschema.Draft202012Validator(json.loads(path.read_text())).iter_errors(document), None)
    return f"{'.'.join(map(str, error.absolute_path))}: {error.message}" if error else ""


def _selected(document: dict[str, Any], selector: str | None) -> bool:
    wanted = dict(item.split("=") for item in selector.split(",")) if selector else {}
    return wanted.items() <= document["metadata"]["labels"].items()


def _merged(old: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict) or not isinstance(old, dict):
        return change
    merged = {key: value for key, value in old.items() if change.get(key, "") is not None}
    return merged | {key: _merged(old.get(key), value) for key, value in change.items() if value is not None}


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "test", "user": {"token": "test"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "millrace"}}],
    }
