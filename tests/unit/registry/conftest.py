"""A registry on its own SQLite file, and versions whose folders exist."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.models import ModelVersion, Registry
from millrace.settings import Settings


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: once is enough."""
    home = tmp_path_factory.mktemp("template")
    Registry(Settings(home=home)).versions()
    return home / "mlflow" / "mlflow.db"


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path) -> Settings:
    (tmp_path / "mlflow").mkdir()
    shutil.copyfile(empty_database, tmp_path / "mlflow" / "mlflow.db")
    return Settings(home=tmp_path)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(settings)


@pytest.fixture
def register(registry: Registry) -> Callable[[str], ModelVersion]:
    """Register an artifact and put its folder and its InferenceService in place, as `promote` does."""

    def make(artifact_id: str) -> ModelVersion:
        version = registry.register(artifact_id, {"snapshot": "s1"})
        folder = registry.folder(version.version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_text(artifact_id)
        Manifest(kind="model", id=artifact_id, workload="fraud", uri=str(folder), files=hash_files(folder)).write()
        registry.rendered_path(version.version).write_text(f"version {version.version}")
        return version

    return make
