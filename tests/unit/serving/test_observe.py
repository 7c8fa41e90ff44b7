"""A Prometheus beside the local runtime: whom it scrapes, by which rules, and what it says when it is not there."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from millrace.errors import NotFound
from serving.local import observe
from serving.local.state import AGENT, GATEWAY, LocalState, ProcessState


def state(port: int = 8080) -> LocalState:
    servers = [
        ProcessState(
            "predictor", http_port=port + 1, service="fraud-detector", revision="fraud-detector-predictor-00002"
        ),
        ProcessState("transformer", http_port=port + 2, service="fraud-detector"),
        ProcessState("server", http_port=0, service="drift-detector"),
        ProcessState("envoy", http_port=0, service=GATEWAY),
        ProcessState(AGENT, http_port=port + 3, service=GATEWAY),
    ]
    return LocalState(1, "m", "h", "fraud-detector", "3", gateway_port=port, processes=servers)


def test_the_gateway_and_every_server_that_listens_are_scraped():
    found = {item["targets"][0]: item["labels"] for item in observe.targets(state())}

    assert found == {
        "127.0.0.1:8083": {"job": "gateway"},
        "127.0.0.1:8081": {
            "job": "fraud-detector", "component": "predictor", "revision_name": "fraud-detector-predictor-00002"
        },
        "127.0.0.1:8082": {"job": "fraud-detector", "component": "transformer"},
    }  # fmt: skip
    assert observe.targets(None) == []


def test_the_rules_are_the_clusters(tmp_path):
    config = yaml.safe_load(observe.prepare(tmp_path).read_text())

    written = yaml.safe_load(Path(config["rule_files"][0]).read_text(encoding="utf-8"))
    assert written == yaml.safe_load(observe.RULES.read_text())["spec"]


def test_a_missing_prometheus_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(NotFound, match="apt-get install prometheus"):
        observe.program()


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: apt-get install prometheus)"
)
def test_prometheus_scrapes_what_the_runtime_says_and_knows_the_alerts(tmp_path):
    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"millrace_breaker_open 1\n"
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path / "observe"
    config = observe.prepare(folder)
    (folder / "targets.json").write_text(json.dumps(observe.targets(state(server.server_port - 3))[:1]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [observe.program(), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL) as running:
        try:
            assert ask(port, "query?query=millrace_breaker_open", lambda found: found["result"])
            alerts = ask(port, "rules?type=alert", lambda found: found["groups"])
            assert any(rule["name"] == "BreakerOpen" for group in alerts for rule in group["rules"])
        finally:
            running.terminate()
            server.shutdown()
            server.server_close()


def ask(port: int, path: str, pick, timeout_s: float = 60):
    """What Prometheus answers, once it is there."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=5) as answer:
                found = pick(json.loads(answer.read())["data"])
            if found:
                return found
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"no answer to {path}; {sys.executable}")
