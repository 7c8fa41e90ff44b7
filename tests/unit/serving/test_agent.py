"""The agent as a process: KServe's logger, a graph's way, and the metrics' names."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from envoy_plane import PATH, Server, wait

from serving.local.agent import described
from serving.local.graph import Graph, Step
from serving.local.manifest import Logger
from serving.local.ports import free_port
from serving.local.routes import SERVICE_HEADER

ROOT = Path(__file__).parents[3]


class Agent:
    def __init__(self, port: int, file: Path) -> None:
        self.port, self.file = port, file

    def ask(self, method: str, path: str, body: bytes = b"{}", **headers: str) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def logged(self, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", PATH, **{SERVICE_HEADER: "m"} | headers)


@contextmanager
def running(folder: Path, text: str) -> Iterator[Agent]:
    port, file = free_port(), folder / "agent.json"
    file.write_text(text)
    options = [f"--file={file}", f"--admin={folder / 'nobody.sock'}", f"--http_port={port}"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    with subprocess.Popen([sys.executable, "-m", "serving.local.agent", *options], env=env) as process:
        agent = Agent(port, file)
        try:
            wait("the agent", lambda: _healthy(agent), 60)
            yield agent
        finally:
            process.terminate()


def _healthy(agent: Agent) -> bool:
    try:
        return agent.ask("GET", "/healthz")[0] == 200
    except OSError:
        return False


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server("m")
    yield made
    made.close()


@pytest.fixture
def sink() -> Iterator[Server]:
    made = Server("sink")
    yield made
    made.close()


def events(sink: Server) -> list[tuple[str, str]]:
    return sorted((item["headers"]["ce-type"].rpartition(".")[2], item["headers"]["ce-id"]) for item in sink.seen)


def test_an_answered_prediction_is_passed_on_and_logged(tmp_path, server, sink):
    loggers = {"m": (Logger(f"http://127.0.0.1:{sink.port}/", "all"), server.port)}
    with running(tmp_path, described(loggers, {})) as agent:
        status, answer = agent.logged(ce_id="17", x_mine="kept")
        wait("two events", lambda: len(sink.seen) == 2)
        server.status = 400
        refused, _ = agent.logged(ce_id="18")
        server.status = 200
        agent.ask("GET", "/v2/models/m", **{SERVICE_HEADER: "m"})
        agent.logged(ce_id="19")
        wait("two more", lambda: len(sink.seen) == 4)

    assert (status, answer["name"], answer["headers"]["x-mine"]) == (200, "m", "kept")
    assert SERVICE_HEADER not in answer["headers"]
    assert refused == 400
    assert events(sink) == [("request", "17"), ("request", "19"), ("response", "17"), ("response", "19")]
    assert sink.seen[0]["headers"]["ce-inferenceservicename"] == "m"


def test_a_logger_follows_its_file(tmp_path, server, sink):
    at = f"http://127.0.0.1:{sink.port}/"
    with running(tmp_path, described({"m": (Logger(at, "response"), server.port)}, {})) as agent:
        agent.logged(ce_id="1")
        wait("an event", lambda: sink.seen)
        aside = tmp_path / "new"
        aside.write_text(described({"m": (Logger(at, "request"), server.port)}, {}))
        aside.replace(agent.file)
        agent.logged(ce_id="2")
        wait("another", lambda: len(sink.seen) == 2)
        unknown = agent.ask("POST", PATH, **{SERVICE_HEADER: "other"})

    assert events(sink) == [("request", "2"), ("response", "1")]
    assert unknown[0] == 503


def test_a_body_goes_on_as_it_came(tmp_path, server):
    body = gzip.compress(b"x" * 1000)
    with running(tmp_path, described({"m": (Logger("http://127.0.0.1:1/", "all"), server.port)}, {})) as agent:
        headers = {SERVICE_HEADER: "m", "content-encoding": "gzip"}
        status, answer = agent.ask("POST", f"{PATH}?a=%20b", body, **headers)

    assert (status, answer["length"], answer["path"]) == (200, len(body), f"{PATH}?a=%20b")
    assert answer["headers"]["content-encoding"] == "gzip"


def test_a_graphs_request_goes_where_its_condition_says(tmp_path, server):
    steps = (Step("business", "segment", server.port, "/v2/models/business/infer"),)
    with running(tmp_path, described({}, {"g": Graph("g", steps)})) as agent:
        chosen = agent.ask("POST", "/graphs/g", b'{"segment": 1}')
        none = agent.ask("POST", "/graphs/g", b"{}")
        torn = agent.ask("POST", "/graphs/g", b"{")
        absent = agent.ask("POST", "/graphs/other")

    assert (chosen[0], chosen[1]["path"]) == (200, "/v2/models/business/infer")
    assert [none[0], torn[0], absent[0]] == [404, 400, 404]


def test_what_cannot_be_reached_is_a_503(tmp_path):
    with running(tmp_path, described({"m": (Logger("http://127.0.0.1:1/", "all"), 1)}, {})) as agent:
        away = agent.logged()
        metrics = agent.ask("GET", "/metrics")

    assert (away[0], metrics[0]) == (503, 503)
    assert "Envoy does not answer" in metrics[1]["error"]
