"""A search finds better hyper-parameters within its budget, goes on after a kill, and never reads a test row."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from components.train.core import read_config
from millrace.errors import ConfigError
from millrace.installed import load
from millrace.lake.manifest import Manifest, hash_files
from millrace.settings import Settings
from run.loop import overrides as run_overrides
from search.space import SearchSpace, read_space
from search.study import search, study_name

MODEL = {"sequence_length": 8, "bins": 6, "width": 16, "blocks": 1, "members": 1, "history_width": 8, "heads": 2}
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # MLflow's
BASE: dict[str, Any] = {"epochs": 3, "batch_size": 256, "model": MODEL, "seed": 1}
FRAUD = load("fraud")
SPACE = SearchSpace.model_validate(
    {
        "startup_trials": 1,
        "warmup_epochs": 0,
        "parameters": {"learning_rate": {"low": 1e-6, "high": 0.03, "log": True}, "model.bins": {"choices": [4, 6]}},
    }
)


def trials(home: Path) -> list[str]:
    with closing(sqlite3.connect(home / "search" / "studies.db")) as connection:
        return [row[0] for row in connection.execute("SELECT state FROM trials ORDER BY trial_id")]


def test_it_searches_within_its_budget_and_says_what_to_train_with(training_set: Manifest, tmp_path: Path) -> None:
    home = Settings(home=tmp_path / "home")

    found = search(training_set, SPACE, home, minutes=1, base=BASE, trials=8)

    assert sum(found.trials.values()) == 8
    assert found.trials["complete"] >= 2
    assert found.trials.get("pruned", 0) >= 1
    assert found.baseline is not None
    assert found.value is not None
    assert found.value >= found.baseline
    assert found.best is not None
    best = read_config(FRAUD, **run_overrides(found.best)["train_overrides"])
    assert best.epochs == 3
    assert best.model.bins in (4, 6)
    client = MlflowClient(home.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("search").experiment_id])
    assert len(runs) == sum(count for state, count in found.trials.items() if state != "waiting")
    assert max(run.data.metrics["average_precision"] for run in runs) > 0
    assert all(run.data.tags["study"] == found.study for run in runs)


def test_a_killed_search_goes_on_with_the_trial_it_lost(training_set: Manifest, tmp_path: Path) -> None:
    home, space, base = tmp_path / "home", tmp_path / "space.yaml", tmp_path / "base.yaml"
    slow = BASE | {"epochs": 500, "patience": 500}
    space.write_text(yaml.safe_dump(json.loads(SPACE.model_dump_json())))
    base.write_text(yaml.safe_dump({"train": slow}))
    options = ["--training-set", str(training_set.fetch()), "--space", str(space), "--overrides", str(base)]
    command = [sys.executable, "-m", "search", "--minutes", "5", *options]
    process = subprocess.Popen(command, env=os.environ | {"MILLRACE_HOME": str(home)}, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: reported(home) > 0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert trials(home) == ["RUNNING"]

    found = search(training_set, read_space(FRAUD, space, slow), Settings(home=home), minutes=1 / 60, base=slow)

    assert trials(home) == ["FAIL", "FAIL", "WAITING"]
    assert found.best is None
    assert found.study == study_name(training_set, read_space(FRAUD, space, slow), read_config(FRAUD, **slow))
    client = MlflowClient(Settings(home=home).tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("search").experiment_id])
    assert "RUNNING" not in {run.info.status for run in runs}


def test_test_rows_change_nothing(made_set: Callable[..., Manifest], tmp_path: Path) -> None:
    clean, poisoned = made_set(tmp_path / "a" / "made"), made_set(tmp_path / "b" / "made")
    test = np.load(poisoned.fetch() / "split.npy") == 2
    for name, value in (("features", np.nan), ("label", -1)):
        array = np.load(poisoned.fetch() / f"{name}.npy")
        array[test] = value
        np.save(poisoned.fetch() / f"{name}.npy", array)
    poisoned = Manifest.read(poisoned.fetch())
    poisoned.files.update(hash_files(poisoned.fetch()))

    one, other = (
        search(made, SPACE, Settings(home=tmp_path / home), minutes=1, base=BASE, trials=1)
        for made, home in ((clean, "one"), (poisoned, "other"))
    )

    assert one.baseline is not None
    assert one.baseline == other.baseline


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"learning_rat": {"low": 0.1, "high": 0.2}}, "learning_rat"),
        ({"learning_rate": {"low": 0.2, "high": 0.1}}, "low < high"),
        ({"learning_rate": {"low": -0.1, "high": 0.1}}, "may be -0.1"),
        ({"model.width": {"choices": ["wide"]}}, "may be 'wide'"),
        ({"model.width": {"choices": []}}, "model.width"),
        ({}, "parameters"),
    ],
)
def test_a_space_that_is_none_is_refused_before_any_trial(
    tmp_path: Path, parameters: dict[str, Any], said: str
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({"parameters": parameters}))

    with pytest.raises(ConfigError, match=said):
        read_space(FRAUD, path, {})


def test_the_shipped_space_fits_the_shipped_configuration() -> None:
    assert len(read_space(FRAUD, None, {}).parameters) >= 5


def reported(home: Path) -> int:
    database = home / "search" / "studies.db"
    if not database.is_file():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def wait_for(condition: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
