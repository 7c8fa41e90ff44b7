"""A home with the whole chain from a source to a served version, manifests only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from millrace.lake.manifest import Manifest, hash_files
from millrace.registry import audit
from millrace.registry.lineage import FOLDERS
from millrace.registry.models import Registry
from millrace.settings import Settings

SNAPSHOT, FEATURES, TRAINING, TRAINED, MODEL = "5a" * 8, "fe" * 8, "7a" * 8, "30" * 8, "31" * 8


def write(settings: Settings, kind: str, identity: str, parents: dict[str, str], facts: dict[str, Any]) -> Manifest:
    folder = settings.lake / FOLDERS[kind] / identity
    folder.mkdir(parents=True)
    if kind == "model":
        (folder / "model.json").write_text(json.dumps({"parameters": {"width": 128}, "seeds": {"seed": 7}}))
    files = hash_files(folder)
    return Manifest(
        kind=kind, id=identity, workload="fraud", uri=str(folder), parents=parents, files=files, facts=facts
    ).write()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path)
    source = {"uri": "s3://bucket/tx.parquet", "hash": "0123"}
    write(settings, "snapshot", SNAPSHOT, {}, {"rows": 10, "source": source, "tables": {"events": {}}})
    write(settings, "feature_set", FEATURES, {"snapshot": SNAPSHOT}, {"feature_service": "fraud_detection_v1"})
    parents = {"feature_set": FEATURES, "snapshot": SNAPSHOT}
    write(settings, "training_set", TRAINING, parents, {"test_start": "2018-09-01"})
    parents |= {"training_set": TRAINING}
    write(settings, "model", TRAINED, parents, {"mlflow_run_id": "r1"})
    parents |= {"model": TRAINED}
    model = write(settings, "model", MODEL, parents, {"served_file": "model.onnx", "code_version": "git:abc"})
    write(settings, "evaluation", "ea" * 8, {**parents, "model": MODEL}, {"passed": True})
    judged = {**parents, "model": MODEL, "evaluation": "ea" * 8, "skew_check": "5c" * 8}
    write(settings, "promotion", "b0" * 8, judged, {"model_version": 1})
    registry = Registry(settings)
    registry.folder(1).mkdir(parents=True)
    (registry.folder(1) / "model.json").write_text((model.fetch() / "model.json").read_text())
    model.write(registry.folder(1) / "manifest.json")
    audit.append(
        registry.audit_path, audit.new_record("promote", model=registry.name, to_version=1, aliases={"champion": 1})
    )
    return settings
