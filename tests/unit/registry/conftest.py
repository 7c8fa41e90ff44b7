"""A registry on its own SQLite file, and versions whose folders exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.models import ModelVersion, Registry
from millrace.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, with_database: Callable[[Path], Settings]) -> Settings:
    return with_database(tmp_path)


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
