"""The servers that are compared, each a process of its own on one core, and how each is asked for one row's score."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from benchmarks.serving.environments import environment
from benchmarks.serving.load import Request
from benchmarks.serving.models import Served

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
START_S: Final = 60.0


@dataclass(frozen=True)
class Contender:
    """A server: how to start it, and which request it takes."""

    name: str
    command: tuple[str, ...]
    protocol: str
    """`v1`, `v2`, or `plain` (V1's body at another path)."""
    path: str
    ready: str
    settings: dict[str, str] = field(default_factory=dict)


@dataclass
class Running:
    """A started server."""

    contender: Contender
    port: int
    process: psutil.Process
    request: Request
    cold_start_s: float

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def memory_mb(self) -> float:
        """Resident, summed over its processes."""
        return sum(one.memory_info().rss for one in self.processes()) / 2**20

    def cpu_s(self) -> float:
        """Seconds of CPU that its living processes have used."""
        return sum(sum(one.cpu_times()[:2]) for one in self.processes())


def ours(name: str, model: Served, **settings: str) -> Contender:
    command = (sys.executable, "-m", "serving.predictor.server", "--model_name=model", f"--model_dir={model.folder}")
    command += ("--host=127.0.0.1", "--http_port={port}", "--grpc_port={port1}")
    path = "/v1/models/model:predict"
    return Contender(name, command, "v1", path, "/v2/models/model/ready", settings)


def bare_asgi() -> Contender:
    return Contender("bare_asgi", _script(sys.executable, "bare_asgi"), "v1", "/", "/")


def stock_kserve() -> Contender:
    script = _script(sys.executable, "stock_kserve")
    return Contender("stock_kserve", script, "v1", "/v1/models/model:predict", "/v2/models/model/ready")


def others() -> Iterator[Contender]:
    """MLServer, BentoML and LitServe, as far as they can be installed; what cannot is said."""
    for name, make in (("mlserver", _mlserver), ("bentoml", _bentoml), ("litserve", _litserve)):
        folder = environment(name)
        if folder is not None:
            yield make(folder / "bin")


def _mlserver(programs: Path) -> Contender:
    script = _script(str(programs / "python"), "mlserver_runtime")
    return Contender("mlserver", script, "v2", "/v2/models/model/infer", "/v2/models/model/ready")


def _bentoml(programs: Path) -> Contender:
    where = str(HERE / "contenders")
    command = (str(programs / "bentoml"), "serve", "bentoml_service:Model", "--working-dir", where)
    settings = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", "PATH": f"{programs}:{os.environ['PATH']}"}
    command += ("--host", "127.0.0.1", "--port", "{port}", "--timeout", "60")
    return Contender("bentoml", command, "plain", "/predict", "/readyz", settings)


def _litserve(programs: Path) -> Contender:
    return Contender("litserve", _script(str(programs / "python"), "litserve_server"), "plain", "/predict", "/health")


def _script(python: str, name: str) -> tuple[str, ...]:
    return (python, str(HERE / "contenders" / f"{name}.py"))


@contextmanager
def running(contender: Contender, model: Served, core: int, log: Path) -> Iterator[Running]:
    """The server, ready, on `core`; stopped with everything that it started."""
    port = _free_port()
    command = [part.format(port=port, port1=port + 1) for part in contender.command]
    settings = {"BENCH_PORT": str(port), "BENCH_GRAPH": str(model.graph), "BENCH_LENGTH": str(model.length)}
    settings |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "MILLRACE_HOME": str(model.home)}
    start = time.perf_counter()
    with log.open("ab") as stream:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=stream,
            stderr=stream,
            env=os.environ | settings | contender.settings,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        _wait(process, port, contender.ready, log)
        took = time.perf_counter() - start
        request = Request(contender.path, model.bodies(contender.protocol))
        yield Running(contender, port, psutil.Process(process.pid), request, took)
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise SystemExit(f"a server did not become ready; the end of {log}:\n{log.read_text(encoding='utf-8')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _free_port() -> int:
    """A port with a free one above it."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def names(found: Sequence[Contender]) -> list[str]:
    return [one.name for one in found]
