"""The real server: events over HTTP, killed in the middle, alarms told once on the stream, bad requests refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from benchmarks.drift import inflated
from millrace.events.stream import ALARMS, Group, open_stream
from millrace.settings import Settings

BATCH = {"content-type": "application/cloudevents-batch+json"}


@pytest.fixture
def detector_process(tmp_path, model_store) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]]]:
    """Call it to start a server over the same state; every one is ended with the test."""
    environment = os.environ | {
        "MILLRACE_HOME": str(tmp_path / "home"),
        "MILLRACE_DRIFT_MODEL_STORE": str(model_store("1")),
        "MILLRACE_DRIFT_BACKEND": "streaming",
        "MILLRACE_DRIFT_PERIOD_S": "0",
    }
    started: list[tuple[subprocess.Popen[bytes], httpx.Client]] = []

    def start() -> tuple[subprocess.Popen[bytes], httpx.Client]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "serving.drift_detector.server", "--model_name=drift-detector"]
        command += [f"--http_port={port}", "--host=127.0.0.1", "--enable_grpc=false"]
        with (tmp_path / f"log-{len(started)}").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        # The server is niced: whatever else the machine does comes first.
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240)
        started.append((process, client))
        until(lambda: ready(process, client, tmp_path), 120)
        return process, client

    yield start
    for process, client in started:
        process.kill()
        process.wait()
        client.close()


def ready(process: subprocess.Popen[bytes], client: httpx.Client, folder: Path) -> bool:
    assert process.poll() is None, "\n".join(path.read_text() for path in folder.glob("log-*"))
    try:
        return client.get("/v2/models/drift-detector/ready").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_drift_is_noticed_across_a_kill_and_told_once(detector_process, stream, prediction, tmp_path):
    first, rows = stream.first, 3_000
    features = stream.features[first : first + rows].copy()
    features[1_000:] = inflated(features[1_000:], 1.2)
    events = [prediction(first + row, vector=features[row]) for row in range(rows)]

    def send(client: httpx.Client, start: int, end: int) -> int:
        answer = client.post("/", content=orjson.dumps(events[start:end]), headers=BATCH)
        assert answer.status_code == 202, answer.text
        return int(answer.json()["accepted"])

    process, client = detector_process()
    sent = send(client, 0, 1_500) + send(client, 1_500, 1_700)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process, client = detector_process()
    sent += send(client, 1_200, 3_000)  # what the sender is not sure of, again
    until(lambda: client.get("/v1/drift").json()["waiting"] == 0, 240)
    alarms = client.get("/v1/alarms").json()
    metrics = client.get("/metrics").text
    process.send_signal(signal.SIGTERM)
    ended = process.wait(30)

    events = open_stream(Settings(home=tmp_path / "home"))
    told = [orjson.loads(entry.body) for entry in events.read(Group(ALARMS, "test"), "test", 100, 0.0)]
    events.close()
    assert sent == rows + 500
    assert 'millrace_drift_events_total{outcome="duplicate"} 500.0' in metrics
    assert [alarm["kind"] for alarm in alarms].count("features") == 1
    assert [event["data"] for event in told] == alarms
    assert {event["type"] for event in told} == {"io.millrace.drift"}
    assert 'millrace_drift_detected{kind="features"} 1.0' in metrics
    assert 'millrace_drift_p_value{feature="amount"}' in metrics
    assert ended == 0


def test_what_is_bad_is_refused_and_a_window_in_the_request_is_judged(detector_process, stream, prediction):
    _, client = detector_process()
    window = stream.features[stream.first : stream.first + 200]
    v1, v2 = "/v1/models/drift-detector:predict", "/v2/models/drift-detector/infer"
    tensor = {"name": "features", "datatype": "FP32", "shape": list(window.shape), "data": window.ravel().tolist()}

    refused = [
        client.post("/", json={"not": "an event"}),
        client.post("/", content=b"[NaN]", headers=BATCH),
        client.post("/", content=orjson.dumps([prediction(1, score=7)]), headers=BATCH),
        client.post("/", content=b"[" + b"1," * 1_000_000 + b"1]", headers=BATCH),
        client.post(v1, content=b'{"instances": [{"features": [NaN]}]}', headers={"content-type": "application/json"}),
        client.post(v1, json={"instances": [{"features": [1.0]}]}),
        client.post(v2, json={"inputs": [tensor | {"data": []}]}),
        client.post(v1, json={"instances": [{"features": window[0].tolist()}] * 5}),
        client.post(v1, json={"instances": [0] * 1_000_000}),
    ]
    one = client.post(v1, json={"instances": [{"features": row.tolist()} for row in window]})
    two = client.post(v2, json={"inputs": [tensor]})

    assert [answer.status_code for answer in refused] == [400, 400, 400, 413, 400, 400, 400, 400, 413]
    assert client.get("/v1/drift").json() == {"waiting": 0, "judged": 0, "last": {}}
    assert (one.status_code, two.status_code) == (200, 200)
    assert one.json()["predictions"][0]["drifted"] is two.json()["parameters"]["drifted"]
    assert {output["name"] for output in two.json()["outputs"]} == {"statistic", "p_value", "drifted", "feature"}
