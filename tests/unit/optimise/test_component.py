"""The KFP face: manifests in, manifest out."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp import dsl

from components.optimise.component import optimise
from millrace.lake.manifest import Manifest


def test_the_face_hands_manifests_to_the_verb(
    trained: Manifest, training_set: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    trained.write(tmp_path / "model")
    training_set.write(tmp_path / "training_set")
    out = dsl.Model(uri=str(tmp_path / "optimised"))

    optimise.python_func(
        model=dsl.Model(uri=str(tmp_path / "model")),
        training_set=dsl.Dataset(uri=str(tmp_path / "training_set")),
        optimised=out,
    )

    written = Manifest.read(tmp_path / "optimised", "model")
    written.verify()
    assert written.fetch().is_relative_to((tmp_path / "home").resolve())
    assert out.metadata["id"] == written.id
    assert out.metadata["served_file"] == written.facts["served_file"]
