"""Opening a model and scoring with it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS
from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound, SchemaMismatch
from millrace.registry.model_artifact import CHUNK_ROWS, ModelArtifact

from .conftest import LENGTH, write_graph

Make = Callable[..., Path]


def inputs(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 0.1, (rows, len(FEATURE_NAMES))).astype(np.float32)
    return features, rng.normal(0, 0.1, (rows, LENGTH, len(HISTORY_CHANNELS))).astype(np.float32)


def expected(features: np.ndarray, history: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(features.sum(axis=1) + history.sum(axis=(1, 2)))))


@pytest.mark.parametrize("rows", [0, 1, 7, CHUNK_ROWS, CHUNK_ROWS + 1, 3 * CHUNK_ROWS - 1])
def test_any_number_of_rows_is_scored_in_order(make_model: Make, rows: int):
    features, history = inputs(rows)

    scores = ModelArtifact.open(make_model()).score(features, history)

    assert scores.dtype == np.float32
    assert scores.shape == (rows,)
    np.testing.assert_allclose(scores, expected(features, history), rtol=1e-5)


def test_an_opened_model_knows_its_threshold_and_lengths(make_model: Make):
    artifact = ModelArtifact.open(make_model())

    assert artifact.id == "m1"
    assert artifact.decision_threshold == 0.5
    assert artifact.spec.sequence_length == LENGTH
    assert artifact.spec.feature_names == FEATURE_NAMES


def test_a_folder_that_was_moved_still_opens(make_model: Make, tmp_path: Path):
    moved = make_model().rename(tmp_path / "elsewhere")

    assert ModelArtifact.open(str(moved)).manifest.fetch() == moved


def test_views_and_slices_are_scored_like_copies(make_model: Make):
    features, history = inputs(20)
    artifact = ModelArtifact.open(make_model())

    np.testing.assert_array_equal(
        artifact.score(features[::2], history[::2]), artifact.score(features[::2].copy(), history[::2].copy())
    )


def test_threads_may_share_a_model(make_model: Make):
    artifact = ModelArtifact.open(make_model())
    results: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        results[seed] = artifact.score(*inputs(300, seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for seed, scores in results.items():
        np.testing.assert_allclose(scores, expected(*inputs(300, seed)), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, h: (f.astype(np.float64), h), r"tensor 'features' is float64 .*wanted float32 \[B, "),
        (lambda f, h: (f[:, :-1], h), r"tensor 'features' is float32 \[2, "),
        (lambda f, h: (f, h[:, 1:]), r"tensor 'history' is float32 \[2, 3, 4\]; wanted float32 \[B, 4, 4\]"),
        (lambda f, h: (f, h[:, :, :3]), "tensor 'history'"),
        (lambda f, h: (f[0], h), "tensor 'features'"),
        (lambda f, h: (f, h[:1]), "features has 2 rows and history 1"),
        (lambda f, h: (f.tolist(), h), "tensor 'features' is a list"),
        (lambda f, h: (f * np.nan, h), "row 0: the score is nan"),
        (lambda f, h: (f, np.float32(1)), "tensor 'history' is a float32"),
        (lambda f, h: (np.array(1, np.float32), h), "tensor 'features'"),
    ],
)
def test_a_wrong_tensor_is_named_with_what_was_got_and_wanted(make_model: Make, change: Callable, message: str):
    artifact = ModelArtifact.open(make_model())

    with pytest.raises(InvalidInput, match=message):
        artifact.score(*change(*inputs(2)))


def test_a_changed_file_is_not_loaded(make_model: Make):
    folder = make_model()
    (folder / "model.json").write_text((folder / "model.json").read_text().replace("0.5", "0.9"))

    with pytest.raises(ArtifactCorrupt, match=r"model\.json"):
        ModelArtifact.open(folder)


def test_a_missing_folder_is_not_found(tmp_path: Path):
    with pytest.raises(NotFound):
        ModelArtifact.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_service": "fraud_detection_v0"}, "feature_service is 'fraud_detection_v0'"),
        ({"feature_names": list(FEATURE_NAMES[1:])}, r"feature_names lacks \['amount'\]"),
        ({"feature_names": [*FEATURE_NAMES[1::-1], *FEATURE_NAMES[2:]]}, "differ in order from 0"),
        ({"history_channels": ["amount"]}, "history_channels lacks"),
    ],
)
def test_a_model_of_other_features_is_refused(make_model: Make, changes: dict, message: str):
    with pytest.raises(SchemaMismatch, match=message):
        ModelArtifact.open(make_model(**changes))


def test_a_model_that_is_only_trained_is_refused(make_model: Make):
    with pytest.raises(InvalidInput, match="Run optimise first"):
        ModelArtifact.open(make_model(served_file=None, decision_threshold=None))


def test_a_served_file_that_is_not_in_the_manifest_is_not_found(make_model: Make):
    with pytest.raises(NotFound, match=r"other\.onnx"):
        ModelArtifact.open(make_model(served_file="other.onnx"))


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"name": "x"}'])
def test_a_broken_description_is_named(make_model: Make, text: str):
    from millrace.registry.model_spec import ModelSpec

    folder = make_model()
    (folder / "model.json").write_text(text)

    with pytest.raises(ArtifactCorrupt, match="not a model description"):
        ModelSpec.read(folder)


def test_a_file_that_is_no_graph_is_named(make_model: Make):
    with pytest.raises(ArtifactCorrupt, match="cannot be loaded by ONNX Runtime"):
        ModelArtifact.open(make_model(graph=lambda path: path.write_bytes(b"junk")))


def test_a_graph_with_other_inputs_is_refused(make_model: Make):
    with pytest.raises(SchemaMismatch, match=r"inputs \['history', 'x'\]"):
        ModelArtifact.open(make_model(graph=lambda path: write_graph(path, features="x")))


def test_a_graph_that_gives_other_than_one_figure_a_row_is_refused(make_model):
    def twice(path: Path) -> None:
        write_graph(path)
        model = onnx.load(path)
        model.graph.node[-1].output[0] = "plain"
        model.graph.node.append(onnx.helper.make_node("Concat", ["plain", "plain"], ["score"], axis=0))
        onnx.save(model, path)

    folder = make_model(twice)

    with pytest.raises(SchemaMismatch, match=r"score of shape \[2\] for 1 rows; wanted \[1\]"):
        ModelArtifact.open(folder)


def test_scoring_needs_no_torch(make_model: Make):
    folder = make_model()
    code = f"""
import sys, json
from millrace.registry.model_artifact import ModelArtifact
ModelArtifact.open({str(folder)!r})
print(json.dumps([name for name in ("torch", "mlflow", "feast", "kfp", "kserve") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == []
