"""A cheap first model in the folder: which rows it answers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS
from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound, SchemaMismatch
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.model_artifact import CHEAP, CHUNK_ROWS, FULL, ModelArtifact

Tiny = Callable[..., Path]
LOWER, UPPER = 0.2, 0.7


def rows(amounts: Any, past: float = 500.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of these amounts; the history, which the cheap model does not see, raises the full score."""
    features = np.zeros((len(amounts), len(FEATURE_NAMES)), np.float32)
    features[:, FEATURE_NAMES.index("amount")] = amounts
    history = np.zeros((len(amounts), 8, len(HISTORY_CHANNELS)), np.float32)
    history[:, -1, HISTORY_CHANNELS.index("amount")] = past
    return features, history


def cheap_score(amounts: Any) -> np.ndarray:
    return 1 / (1 + np.exp(2 - np.asarray(amounts) / 100))


def full_score(amounts: Any, past: float = 500.0) -> np.ndarray:
    return 1 / (1 + np.exp(2 - np.asarray(amounts) / 100 - past / 1000))


@pytest.fixture(scope="module")
def folder(tiny_model: Tiny) -> Path:
    return tiny_model("cascade", cascade=(LOWER, UPPER))


@pytest.fixture(scope="module")
def artifact(folder: Path) -> ModelArtifact:
    return ModelArtifact.open(folder)


def test_clear_rows_keep_the_cheap_score_and_the_uncertain_get_the_full_one(folder: Path):
    amounts = [0.0, 100.0, 200.0, 250.0, 400.0]

    outputs, stages = ModelArtifact.open(folder).run(*rows(amounts))
    scores = outputs["score"]

    wanted = [CHEAP, FULL, FULL, FULL, CHEAP]
    assert stages.tolist() == wanted
    np.testing.assert_allclose(scores, np.where(stages == CHEAP, cheap_score(amounts), full_score(amounts)), rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(amounts=st.lists(st.floats(0, 1000, width=32), min_size=1, max_size=20))
def test_every_row_is_answered_by_the_stage_that_its_cheap_score_says(artifact: ModelArtifact, amounts: list[float]):
    outputs, stages = artifact.run(*rows(amounts))
    scores = outputs["score"]

    cheap = cheap_score(amounts)
    clear = np.abs(cheap - LOWER) > 1e-4  # float32 decides on the bounds themselves
    clear &= np.abs(cheap - UPPER) > 1e-4
    sure = (cheap < LOWER) | (cheap >= UPPER)
    assert ((stages == CHEAP) == sure)[clear].all()
    np.testing.assert_allclose(scores, np.where(stages == CHEAP, cheap, full_score(amounts)), rtol=1e-4)


def test_score_and_run_agree_and_rows_beyond_a_chunk_are_in_order(folder: Path):
    amounts = np.linspace(0, 500, CHUNK_ROWS + 7)
    artifact = ModelArtifact.open(folder)

    outputs, stages = artifact.run(*rows(amounts))
    scores = outputs["score"]

    assert artifact.score(*rows(amounts)) == pytest.approx(scores)
    np.testing.assert_allclose(scores, np.where(stages == CHEAP, cheap_score(amounts), full_score(amounts)), rtol=1e-4)


def test_switched_off_every_row_goes_to_the_full_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    amounts = [0.0, 400.0]
    monkeypatch.setenv("MILLRACE_CASCADE", "off")

    for artifact in (ModelArtifact.open(folder), ModelArtifact.open(folder, cascade=False)):
        outputs, stages = artifact.run(*rows(amounts))
        scores = outputs["score"]
        assert artifact.cascade is None
        assert stages.tolist() == [FULL, FULL]
        np.testing.assert_allclose(scores, full_score(amounts), rtol=1e-5)
    assert ModelArtifact.open(folder, cascade=True).cascade is not None


def test_a_graph_that_is_named_scores_alone(folder: Path):
    outputs, stages = ModelArtifact.open(folder, served_file="model.onnx").run(*rows([0.0]))
    scores = outputs["score"]

    assert stages.tolist() == [FULL]
    np.testing.assert_allclose(scores, full_score([0.0]), rtol=1e-5)


def test_not_a_number_is_not_a_clear_case(folder: Path):
    with pytest.raises(InvalidInput, match="row 0: the score is nan"):
        ModelArtifact.open(folder).score(*rows([np.nan]))


def changed(folder: Path, copy: Path, change: dict[str, Any]) -> Path:
    """The model again, with another `cascade` in its description and a manifest that fits."""
    copy.mkdir()
    for name in ("model.onnx", "cascade.onnx"):
        (copy / name).write_bytes((folder / name).read_bytes())
    document = json.loads((folder / "model.json").read_text()) | change
    (copy / "model.json").write_text(json.dumps(document))
    Manifest(kind="model", id="m", workload="fraud", uri=str(copy), files=hash_files(copy)).write()
    return copy


GOOD = {"file": "cascade.onnx", "lower": 0.1, "upper": 0.9}


@pytest.mark.parametrize(
    ("cascade", "message"),
    [
        (GOOD | {"lower": -0.1}, "wanted 0 ≤ lower < upper ≤ 1"),
        (GOOD | {"upper": 1.1}, "wanted 0 ≤ lower < upper ≤ 1"),
        (GOOD | {"lower": 0.9}, "lower 0.9 and upper 0.9"),
        (GOOD | {"lower": "0.1"}, "lower '0.1'"),
        (GOOD | {"upper": None}, "upper None"),
        (GOOD | {"lower": False}, "lower False"),
        (GOOD | {"upper": float("nan")}, "upper nan"),
        ({"lower": 0.1, "upper": 0.9}, "wanted an object with file, lower and upper"),
        ("cascade.onnx", "wanted an object with file, lower and upper"),
    ],
)
def test_wrong_bounds_are_refused_when_the_model_is_opened(folder: Path, tmp_path: Path, cascade: Any, message: str):
    with pytest.raises(ArtifactCorrupt, match=message):
        ModelArtifact.open(changed(folder, tmp_path / "m", {"cascade": cascade}))


def test_a_cheap_graph_that_is_not_there_or_reads_more_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(NotFound):
        ModelArtifact.open(changed(folder, tmp_path / "a", {"cascade": GOOD | {"file": "other.onnx"}}))
    with pytest.raises(SchemaMismatch, match="wanted features → score"):
        ModelArtifact.open(changed(folder, tmp_path / "b", {"cascade": GOOD | {"file": "model.onnx"}}))


def test_what_else_the_description_says_of_the_cascade_is_kept_out_of_the_way(folder: Path, tmp_path: Path):
    more = GOOD | {"share_cheap": 0.8}

    assert ModelArtifact.open(changed(folder, tmp_path / "m", {"cascade": more})).cascade is not None
