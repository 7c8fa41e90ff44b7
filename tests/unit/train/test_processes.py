"""Real processes under torchrun: killed, restarted, resumed, failing, two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from components.train import torchrun as local
from components.train.core import AnyTrainConfig, model_id, train
from components.train.launch import TrainingFailed
from components.train.torchrun import ENVIRONMENT, torchrun
from millrace.errors import AlreadyRunning
from millrace.lake.atomic import exclusive
from millrace.lake.manifest import Manifest
from millrace.registry.model_spec import ModelSpec
from millrace.settings import Settings
from millrace.tabular.weights import load_network

# MLflow 3.17 asks SQLAlchemy 2.1 for a loader that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

DEADLINE_S = 120
TRAIN = """
import json, sys
from pathlib import Path
from components.train.core import config_type, train
from millrace.lake.manifest import Manifest
from millrace.settings import Settings
from millrace.installed import load
job = json.loads(sys.argv[1])
settings = Settings(**job["settings"])
train(Manifest.read(job["set"]), settings.lake, config_type(load("fraud"))(**job["config"]), settings)
"""


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for all tests here: making its tables costs more than a training."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def settings_in(home: Path, tracking_uri: str, processes: int = 1) -> Settings:
    return Settings(home=home, processes=processes, mlflow_tracking_uri=tracking_uri)


def start(training_set: Manifest, config: AnyTrainConfig, settings: Settings) -> subprocess.Popen[str]:
    """The same call as in production, in a process group of its own that can be killed."""
    job = {"set": training_set.uri, "config": config.model_dump(), "settings": settings.model_dump(mode="json")}
    command = [sys.executable, "-c", TRAIN, json.dumps(job)]
    return subprocess.Popen(command, start_new_session=True)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def epochs_done(work: Path) -> int:
    curve = work / "training_curve.json"
    return len(json.loads(curve.read_text())) if curve.exists() else 0


def workers(work: Path) -> list[psutil.Process]:
    """The training processes of a work folder; torchrun starts them as `python -u -m …`."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if {str(work), "-u"} <= set(p.info["cmdline"] or [])]


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_network(one).state_dict(), load_network(other).state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def uninterrupted(training_set: Manifest, config: AnyTrainConfig, folder: Path, processes: int) -> Path:
    """The weights of a run that nothing disturbs."""
    folder.mkdir()
    job = {"training_set": training_set.uri, "config": config.model_dump(), "description": {}}
    (folder / "job.json").write_text(json.dumps(job))
    subprocess.run(torchrun(folder, processes), check=True, env=os.environ | ENVIRONMENT)
    return folder / "model"


@pytest.mark.slow
def test_neither_a_killed_worker_nor_a_killed_run_changes_the_weights(
    training_set: Manifest, small_config: Callable[..., AnyTrainConfig], tmp_path: Path, tracking_uri: str
) -> None:
    config = small_config(epochs=25, patience=25, batch_size=64, negative_share=0.5)
    settings = settings_in(tmp_path / "home", tracking_uri, processes=2)
    work = settings.lake / "models" / f".{model_id(training_set, config, settings.processes)}.run"

    with start(training_set, config, settings) as run:
        wait_for(lambda: epochs_done(work))
        workers(work)[-1].kill()
        resumed_from = epochs_done(work)
        wait_for(lambda: epochs_done(work) > resumed_from + 1)  # torchrun has started the processes again
        orphans = workers(work)
        os.killpg(run.pid, signal.SIGKILL)
        for orphan in orphans:  # torchrun gives every process a session of its own
            orphan.kill()
    psutil.wait_procs(orphans, DEADLINE_S)
    assert epochs_done(work) < config.epochs
    finished = train(training_set, settings.lake, config, settings)

    assert same_weights(finished.fetch(), uninterrupted(training_set, config, tmp_path / "whole", 2))
    assert finished.facts["epochs"] == config.epochs
    assert not work.exists()
    finished.verify()


def test_a_model_says_what_serving_and_people_need(
    training_set: Manifest, small_config: Callable[..., AnyTrainConfig], tmp_path: Path, tracking_uri: str
) -> None:
    one_process = settings_in(tmp_path, tracking_uri)
    manifest = train(training_set, one_process.lake, small_config(), one_process)

    spec = ModelSpec.read(manifest.fetch())
    spec.require_contract()
    assert spec.name == "fraud-detector"
    assert (spec.sequence_length, spec.history_length) == (8, 8)
    assert spec.seeds == {"seed": 1}
    assert set(manifest.parents) == {"training_set", "feature_set", "snapshot"}
    assert set(manifest.files) == {"weights.safetensors", "model.json", "training_curve.json"}
    assert train(training_set, one_process.lake, small_config(), one_process) == manifest
    assert_tracked(manifest, one_process)


def assert_tracked(manifest: Manifest, settings: Settings) -> None:
    from mlflow import MlflowClient

    run = MlflowClient(settings.tracking_uri).get_run(manifest.facts["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "1"
    assert run.data.params["width"] == "16"
    assert run.data.params["version.torch"]
    assert run.data.params["hardware.cores"]
    assert run.data.params["snapshot"] == "s" * 16
    assert {"training_set_id", "feature_set_id", "snapshot_id", "code_version"} <= set(run.data.tags)
    for metric in ("average_precision", "samples_per_s", "stall_share", "cpu_utilisation"):
        history = MlflowClient(settings.tracking_uri).get_metric_history(run.info.run_id, metric)
        assert len(history) == manifest.facts["epochs"], metric


def test_the_traceback_of_a_failing_process_reaches_the_caller(
    training_set: Manifest,
    small_config: Callable[..., AnyTrainConfig],
    tmp_path: Path,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "MAX_RESTARTS", 0)
    settings = settings_in(tmp_path, tracking_uri)
    identity = model_id(training_set, small_config(), settings.processes)
    work = settings.lake / "models" / f".{identity}.run"
    work.mkdir(parents=True)
    (work / "training_curve.json").mkdir()

    with pytest.raises(TrainingFailed, match="IsADirectoryError") as caught:
        train(training_set, settings.lake, small_config(), settings)

    assert "Traceback" in str(caught.value)
    assert not (settings.lake / "models" / identity).exists()


def test_two_runs_of_the_same_model_at_once_are_refused(
    training_set: Manifest, small_config: Callable[..., AnyTrainConfig], tmp_path: Path, tracking_uri: str
) -> None:
    settings = settings_in(tmp_path, tracking_uri)
    identity = model_id(training_set, small_config(), settings.processes)

    with (
        exclusive(settings.lake / "models" / f".{identity}.lock", "the first run"),
        pytest.raises(AlreadyRunning, match=identity),
    ):
        train(training_set, settings.lake, small_config(), settings)
