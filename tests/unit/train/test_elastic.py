"""Elastic training with real torchrun agents that meet by rendezvous, as a PyTorchJob's pods do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from components.train.core import TrainConfig
from components.train.launcher import WORKER
from components.train.torchrun import ENVIRONMENT, torchrun
from millrace.artifacts import Manifest

DEADLINE_S = 200
EPOCHS = 12


@pytest.fixture
def agents(tmp_path) -> Iterator[Callable[[Path, int], subprocess.Popen[bytes]]]:
    """agents(work, port) → one more torchrun agent with one process; all are gone afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(work: Path, port: int) -> subprocess.Popen[bytes]:
        rendezvous = [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-backend=c10d", "--rdzv-id=millrace"]
        host = int(not started)  # worker 0's pod holds the rendezvous; on one machine each would think it does
        patience = f"--rdzv-conf=is_host={host},last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=2"
        size = ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=9", "--monitor-interval=0.1"]
        command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, patience, *size, "--module", WORKER]
        with (tmp_path / f"agent-{len(started)}.log").open("wb") as log:
            environment = os.environ | ENVIRONMENT
            started.append(subprocess.Popen([*command, str(work)], env=environment, stdout=log, stderr=log))
        return started[-1]

    yield start
    for agent in started:
        kill_whole(agent)


def kill_whole(agent: subprocess.Popen[bytes]) -> None:
    """As a lost node: agent and worker at once, without a word."""
    if agent.poll() is None:
        family = [*psutil.Process(agent.pid).children(recursive=True), psutil.Process(agent.pid)]
        for process in family:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, 10)
    agent.wait()


def curve(work: Path) -> list[dict[str, float]]:
    path = work / "training_curve.json"
    return json.loads(path.read_text()) if path.exists() else []


def wait_for(condition: Callable[[], object], tmp_path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        logs = "\n".join(path.read_text()[-1500:] for path in tmp_path.glob("agent-*.log"))
        assert time.monotonic() < deadline, f"it did not happen in time:\n{logs}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_job(folder: Path, training_set: Manifest, config: TrainConfig) -> Path:
    folder.mkdir()
    job = {"training_set": training_set.uri, "config": config.model_dump(), "description": {}}
    (folder / "job.json").write_text(json.dumps(job))
    return folder


@pytest.mark.slow
def test_training_goes_on_from_its_last_epoch_when_a_node_is_lost(training_set, small_config, tmp_path, agents):
    config = small_config(epochs=EPOCHS, patience=EPOCHS, batch_size=32, negative_share=1.0)
    work, port = write_job(tmp_path / "elastic", training_set, config), free_port()

    first = agents(work, port)
    lost = agents(work, port)
    wait_for(lambda: len(curve(work)) >= 2, tmp_path)
    done = len(curve(work))
    kill_whole(lost)
    wait_for(lambda: len(curve(work)) > done, tmp_path)
    kept = curve(work)[:done]
    wait_for(lambda: first.poll() is not None, tmp_path)

    assert first.returncode == 0
    whole = write_job(tmp_path / "whole", training_set, config)
    subprocess.run(torchrun(whole, 2), check=True, env=os.environ | ENVIRONMENT)
    assert curve(work)[:done] == kept, "finished epochs are not trained again"
    assert [point["epoch"] for point in curve(work)] == list(range(EPOCHS))
    best = max(point["average_precision"] for point in curve(work))
    assert best == pytest.approx(max(point["average_precision"] for point in curve(whole)), abs=0.03)
