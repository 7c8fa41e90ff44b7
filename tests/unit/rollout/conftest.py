"""A registry with a champion and a challenger, and an API server and a Prometheus that are small and real HTTP."""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.installed import load
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.models import Registry
from millrace.rollout import service as templates
from millrace.settings import Settings

ROOT = Path(__file__).parents[3]
REVISION = "serving.knative.dev/revision="
LATENCY_MS = (5.0, 10.0, 20.0, 50.0, 100.0)
SCORES = (0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 1.0)


@pytest.fixture
def document() -> dict[str, Any]:
    """The InferenceService, serving version 1."""
    found = yaml.safe_load(templates.inference_service(load("fraud")))
    found["metadata"] |= {"namespace": "millrace"}
    found["metadata"]["annotations"]["millrace.io/model-version"] = "1"
    for variable in found["spec"]["predictor"]["containers"][0]["env"]:
        variable |= {"STORAGE_URI": {"value": "file:///models/1"}, "MODEL_VERSION": {"value": "1"}}.get(
            variable["name"], {}
        )
    return found


@pytest.fixture
def registry(tmp_path: Path, with_database: Callable[[Path], Settings], document: dict[str, Any]) -> Registry:
    """Version 1 is champion and served, version 2 challenger."""
    made = Registry(with_database(tmp_path))
    for name in "ab":
        version = made.register(name, {}).version
        folder = made.folder(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_text(name)
        Manifest(kind="model", id=name, workload="fraud", uri=str(folder), files=hash_files(folder)).write()
        made.rendered_path(version).write_text(yaml.safe_dump(document))
        made.admit(version)
    return made


class Serving:
    """One HTTP server in a thread; `answer(method, path, body)` → status and document."""

    def __init__(self) -> None:
        serving = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, found = serving.answer(self.command, self.path, body)
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = answer

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        raise NotImplementedError


class ApiServer(Serving):
    """Holds one InferenceService and does to its status what KServe and Knative do: numbered revisions, traffic."""

    def __init__(self, document: dict[str, Any], validate: Callable[[dict[str, Any]], None]) -> None:
        self.document = deepcopy(document)
        self.document["metadata"]["resourceVersion"] = "1"
        self.validate = validate
        self.before_write: list[Callable[[], None]] = []
        self.canary_becomes_ready = True
        self.pods: dict[str, list[dict[str, Any]]] = {}
        self.writes: list[dict[str, Any]] = []
        self._revision, self._rolled_out, self._template = 1, 1, self._of(document)
        self._reconcile()
        super().__init__()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        wanted = "/apis/serving.kserve.io/v1beta1/namespaces/millrace/inferenceservices/fraud-detector"
        asked = urllib.parse.urlsplit(path)
        if asked.path == "/api/v1/namespaces/millrace/pods":
            label = urllib.parse.parse_qs(asked.query)["labelSelector"][0]
            return 200, {"kind": "PodList", "items": self.pods.get(label.removeprefix(REVISION), [])}
        if path != wanted:
            return 404, {"message": f"no {path}"}
        if method == "GET":
            return 200, self.document
        if self.before_write:
            self.before_write.pop()()
        if body["metadata"]["resourceVersion"] != self.document["metadata"]["resourceVersion"]:
            return 409, {"message": "the object has been modified"}
        self.validate(body)
        self.document = body
        self.writes.append(deepcopy(body))
        self.touch()
        self._reconcile()
        return 200, self.document

    def touch(self) -> None:
        """Somebody has written."""
        metadata = self.document["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)

    @property
    def traffic(self) -> dict[str, int]:
        found = self.document["status"]["components"]["predictor"]["traffic"]
        return {item["revisionName"]: item["percent"] for item in found}

    @staticmethod
    def _of(document: dict[str, Any]) -> str:
        spec = {key: value for key, value in document["spec"]["predictor"].items() if key != "canaryTrafficPercent"}
        return json.dumps(spec, sort_keys=True)

    def _reconcile(self) -> None:
        if self._of(self.document) != self._template:
            self._revision, self._template = self._revision + 1, self._of(self.document)
        percent = self.document["spec"]["predictor"].get("canaryTrafficPercent", 100)
        ready = self._revision == self._rolled_out or self.canary_becomes_ready
        if percent == 100 and ready:
            self._rolled_out = self._revision
        name = "fraud-detector-predictor-{:05d}".format
        traffic = [{"revisionName": name(self._rolled_out), "percent": 100}]
        if self._revision != self._rolled_out and ready:
            traffic[0]["percent"] = 100 - percent
            traffic.insert(0, {"revisionName": name(self._revision), "percent": percent, "latestRevision": True})
        predictor = {
            "latestRolledoutRevision": name(self._rolled_out),
            "latestCreatedRevision": name(self._revision),
            "latestReadyRevision": name(self._revision if ready else self._rolled_out),
            "traffic": traffic,
        }
        self.document["status"] = {"components": {"predictor": predictor}}


class Prometheus(Serving):
    """Answers the queries of the controller from counts per revision and per model version."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], dict[str, float]] = {}
        self.queries: list[str] = []
        super().__init__()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)["query"][0]
        self.queries.append(query)
        selector = r'namespace="millrace",(?:model_name="fraud-detector",)?\w+="([^"]+)"'
        form = rf"sum by \((\w+)\) \(increase\((\w+)\{{{selector}\}}\[\d+s\]\)\)"
        found = re.fullmatch(form, query)
        if found is None:
            memory = (
                r"max by \((\w+)\) \(max_over_time\((process_resident_memory_bytes)\{" + selector + r"\}\[\d+s\]\)\)"
            )
            found = re.fullmatch(memory, query)
        if found is None:
            return 400, {"status": "error", "error": f"not a query: {query}"}
        label, metric, subject = found.groups()
        values = self.counts.get((metric, subject), {})
        result = [{"metric": {label: key}, "value": [0, str(value)]} for key, value in values.items()]
        return 200, {"status": "success", "data": {"resultType": "vector", "result": result}}

    def has(self, revision: str, version: str, **changes: Any) -> None:
        """Counts of a healthy revision, with changes: requests, errors, latency shares, score shares, reviewed."""
        n = changes.get("requests", 1000.0)
        errors = changes.get("errors", 0.0)
        latency = changes.get("latency", (0.9, 0.08, 0.02, 0, 0, 0))
        scores = changes.get("scores", (0.6, 0.2, 0.1, 0.04, 0.03, 0.02, 0.01, 0))
        self.counts[("revision_request_count", revision)] = {"2xx": n - errors, "5xx": errors}
        self.counts[("revision_request_latencies_bucket", revision)] = _cumulative(LATENCY_MS, latency, n)
        self.counts[("millrace_score_bucket", version)] = _cumulative(SCORES, scores, n - errors)
        self.counts[("millrace_model_faults_total", version)] = {version: changes.get("faults", 0.0)}
        self.counts[("millrace_scores_repeated_total", version)] = {version: changes.get("repeated", 0.0)}
        self.counts[("process_resident_memory_bytes", revision)] = {revision: changes.get("memory_mb", 150.0) * 1e6}
        self.counts[("millrace_predictions_total", version)] = {"review": n * 0.05, "approve": n * 0.95}


def _cumulative(bounds: tuple[float, ...], shares: tuple[float, ...], n: float) -> dict[str, float]:
    below = [n * sum(shares[: i + 1]) for i in range(len(shares))]
    return dict(zip([*map(str, bounds), "+Inf"], below, strict=True))


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    server = Prometheus()
    yield server
    server.close()


@pytest.fixture
def api_server(document: dict[str, Any]) -> Iterator[ApiServer]:
    server = ApiServer(document, lambda _: None)
    yield server
    server.close()
