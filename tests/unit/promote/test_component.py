"""The KFP face: manifests in, manifest and card out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import dsl

from components.promote.component import promote
from millrace.lake.manifest import Manifest
from millrace.settings import Settings


def test_the_face_hands_manifests_to_the_verb(
    settings: Settings,
    make_model: Callable[[str], Manifest],
    make_judgement: Callable[..., Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("MILLRACE_HOME", str(settings.home))
    inputs = {
        "model": make_model("m1"),
        "evaluation": make_judgement("evaluation", {"model": "m1"}),
        "skew_check": make_judgement("skew_check", {"feature_set": "f1"}),
        "validation": make_judgement("validation", {"snapshot": "s1"}),
    }
    for name, manifest in inputs.items():
        manifest.write(tmp_path / name)
    out = dsl.Dataset(uri=str(tmp_path / "promotion"))

    promote.python_func(
        **{name: dsl.Dataset(uri=str(tmp_path / name)) for name in inputs},
        promotion=out,
        model_card=dsl.Markdown(uri=str(tmp_path / "card")),
        run_id="r1",
    )

    assert Manifest.read(tmp_path / "promotion", "promotion").facts["alias"] == "champion"
    assert out.metadata["model_version"] == 1
    assert (tmp_path / "card").read_text().startswith("# fraud-detector, version 1")
