"""Real servers of one model, each a process of its own on ports of this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from millrace.direct import open_directly

ROOT = Path(__file__).parents[1]
READY_S = 90


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def listening(application: Any, protocol: type) -> Iterator[int]:
    """The port of an ASGI application that uvicorn serves by `protocol`, in a thread of this process."""
    port = free_port()
    config = uvicorn.Config(application, port=port, http=protocol, ws="none", lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def running(module: str, ready: str, folder: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    """`python -m module` with ports, until the block ends; ready when `ready` is answered with 200."""
    port, grpc_port = free_port(), free_port()
    ports = (f"--http_port={port}", "--host=127.0.0.1", *arguments)
    command = [sys.executable, "-m", module, *ports]
    if module.endswith(("predictor.server", "transformer.server", "explainer.server")):
        command.append(f"--grpc_port={grpc_port}")
    log = folder / f"{module}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, cwd=ROOT, env=os.environ | {"PYTHONPATH": _path()} | environment
        )
        try:
            wait_ready(process, f"http://127.0.0.1:{port}{ready}", log)
            yield Server(process, port, grpc_port)
        finally:
            process.terminate()
            process.wait(30)


def wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
        try:
            with open_directly(url, 2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} is not ready: {log.read_text(encoding='utf-8')[-3000:]}")


def small_world(home: Path, history_length: int) -> None:
    """A home of a few simulated days, its online store filled."""
    script = ROOT / "tests" / "e2e" / "local" / "small_world.py"
    made = subprocess.run(
        [sys.executable, str(script), str(home), "10", "40", "60", str(history_length)],
        env=os.environ | {"MILLRACE_HOME": str(home), "PYTHONPATH": _path(), "PYTHONOPTIMIZE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert made.returncode == 0, made.stderr


def _path() -> str:
    return f"{ROOT / 'src'}:{ROOT}"


def v2_features(number: int, features: int, history: tuple[int, int]) -> bytes:
    """A request for the predictor of one row of zeros whose answer repeats the number as its id."""
    length, channels = history
    inputs: list[dict[str, Any]] = [
        {"name": "features", "datatype": "FP32", "shape": [1, features], "data": [0.0] * features},
        {"name": "history", "datatype": "FP32", "shape": [1, length, channels], "data": [0.0] * length * channels},
    ]
    return json.dumps({"id": str(number), "inputs": inputs}).encode()


def labels(number: int) -> bytes:
    """A request for the prediction log of so many labels, whose answer says how many it took."""
    rows = [{"transaction_id": place, "is_fraud": 0} for place in range(number)]
    return json.dumps({"labels": rows}).encode()


def v1_transaction(number: int) -> bytes:
    """A request for the transformer of one event, whose answer repeats the number as the event's id."""
    row = {"transaction_id": number, "event_timestamp": "2018-05-11T12:00:00Z", "customer_id": str(number % 40)}
    return json.dumps({"instances": [row | {"terminal_id": "7", "amount": 57.16}]}).encode()
