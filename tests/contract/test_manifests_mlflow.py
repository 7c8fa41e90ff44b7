"""What MLflow's Deployment asks of MLflow and uvicorn is understood by the versions that its image has."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

DEPLOYMENT = Path(__file__).parents[2] / "manifests" / "base" / "registry" / "mlflow" / "deployment.yaml"


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    return yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]["containers"][0]


def test_a_worker_may_take_as_long_to_import_as_the_probes_allow_on_a_busy_node(container):
    options = next(arg.split("=", 1)[1] for arg in container["args"] if arg.startswith("--uvicorn-opts="))

    asked = uvicorn.main.make_context("uvicorn", [*shlex.split(options), "app:app"]).params

    assert asked["timeout_worker_healthcheck"] >= 60


def test_no_consumers_of_jobs_are_started(container, monkeypatch):
    from mlflow.environment_variables import MLFLOW_SERVER_ENABLE_JOB_EXECUTION

    monkeypatch.delenv(MLFLOW_SERVER_ENABLE_JOB_EXECUTION.name, raising=False)
    assert MLFLOW_SERVER_ENABLE_JOB_EXECUTION.get()
    for variable in container["env"]:
        if "value" in variable and "$(" not in variable["value"]:
            monkeypatch.setenv(variable["name"], variable["value"])

    assert not MLFLOW_SERVER_ENABLE_JOB_EXECUTION.get()
