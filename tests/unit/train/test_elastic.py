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
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from components.train.core import AnyTrainConfig
from components.train.launcher import WORKER
from components.train.torchrun import ENVIRONMENT, torchrun
from millrace.lake.manifest import Manifest

DEADLINE_S = 300
EPOCHS = 12


@pytest.fixture
def agents(tmp_path) -> Iterator[Callable[[Path, int], subprocess.Popen[bytes]]]:
    """agents(work, port) → one more torchrun agent with one process; all are gone afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(work: Path, port: int) -> subprocess.Popen[bytes]:
        rendezvous = [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-backend=c10d", "--rdzv-id=millrace"]
        host = int(not started)  # worker 0's pod holds the rendezvous; on one machine each would think it does
        # A node is lost after 5 s of silence. With 2 attempts a live one is now and then: its beats are up to twice the
        # interval apart, and a node that joins in between makes a group of its own.
        patience = f"--rdzv-conf=is_host={host},last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=5"
        size = ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=9", "--monitor-interval=0.1"]
        command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, patience, *size, "--module", WORKER]
        with (tmp_path / f"agent-{len(started)}.log").open("wb") as log:
            environment = os.environ | ENVIRONMENT | {"LOGLEVEL": "INFO", "MILLRACE_LOG_FORMAT": "json"}
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


@contextmanager
def paused(agent: subprocess.Popen[bytes]) -> Iterator[None]:
    """The agent's training process stands still; the agent does not."""
    worker = worker_of(agent)
    assert worker is not None
    worker.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.resume()


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


def write_job(folder: Path, training_set: Manifest, config: AnyTrainConfig) -> Path:
    folder.mkdir()
    job = {"training_set": training_set.uri, "config": config.model_dump(), "description": {}}
    (folder / "job.json").write_text(json.dumps(job))
    return folder


def logged(tmp_path: Path, event: str) -> list[int]:
    """Epochs that this event's lines name in the logs of all agents, in the order of their time."""
    lines = [line for path in tmp_path.glob("agent-*.log") for line in path.read_text().splitlines()]
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [line["epoch"] for line in sorted(found, key=lambda line: line["time"]) if line["event"] == event]


def joins(tmp_path: Path) -> int:
    """How often the first agent saw that another one waits to be taken in."""
    return (tmp_path / "agent-0.log").read_text().count("new nodes from")


def worker_of(agent: subprocess.Popen[bytes]) -> psutil.Process | None:
    """The training process that an agent runs now."""
    with suppress(psutil.Error):
        return next(iter(psutil.Process(agent.pid).children()), None)
    return None


def world_of(agent: subprocess.Popen[bytes]) -> int:
    """How many processes train together, as the agent's own was told; 0 while it has none."""
    with suppress(psutil.Error):
        worker = worker_of(agent)
        return int(worker.environ().get("WORLD_SIZE", "0")) if worker else 0
    return 0


@pytest.mark.slow
def test_a_lost_node_costs_at_most_an_epoch_and_a_new_one_is_taken_in(training_set, small_config, tmp_path, agents):
    config = small_config(epochs=EPOCHS, patience=EPOCHS, batch_size=32, negative_share=1.0)
    work, port = write_job(tmp_path / "elastic", training_set, config), free_port()

    first, lost = agents(work, port), agents(work, port)
    wait_for(lambda: world_of(first) == 2 and len(curve(work)) >= 2, tmp_path)
    together = curve(work)
    kill_whole(lost)
    wait_for(lambda: world_of(first) == 1 and len(curve(work)) > len(together), tmp_path)
    with paused(first):  # or the rest could be trained before the new node has imported torch
        alone, before = curve(work), joins(tmp_path)
        new = agents(work, port)
        wait_for(lambda: joins(tmp_path) > before, tmp_path)
    wait_for(lambda: world_of(first) == world_of(new) == 2, tmp_path)
    wait_for(lambda: first.poll() is not None and new.poll() is not None, tmp_path)

    assert (first.returncode, new.returncode) == (0, 0)
    assert len(together) < len(alone) < EPOCHS
    assert curve(work)[: len(alone)] == alone
    assert [point["epoch"] for point in curve(work)] == list(range(EPOCHS))
    # Between a checkpoint and the next lies one epoch; an interruption costs no more when none is finished twice.
    epochs = logged(tmp_path, "epoch")
    assert len(set(epochs)) == len(epochs)
    assert logged(tmp_path, "resumed")[-1] >= len(alone)
    whole = write_job(tmp_path / "whole", training_set, config)
    subprocess.run(torchrun(whole, 2), check=True, env=os.environ | ENVIRONMENT)
    best, uninterrupted = (max(point["average_precision"] for point in curve(run)) for run in (work, whole))
    assert best == pytest.approx(uninterrupted, abs=0.03)
