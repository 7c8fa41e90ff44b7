"""From trained weights to a folder that can be served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from components.optimise import core
from components.optimise.boosted import Trees
from components.optimise.config import OptimiseConfig
from components.optimise.core import optimise
from components.optimise.export import export_class, torch_scores
from components.optimise.graphs import FLOAT, INT8, Variant, check_parity, choose
from components.optimise.student import STUDENT, StudentConfig
from fraud.features import FEATURE_NAMES
from millrace.errors import ArtifactCorrupt, GateBlocked, InvalidInput
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.registry.model_artifact import ModelArtifact, load_graph
from millrace.tabular.boosting import BoostConfig, fit
from millrace.tabular.weights import load_network

from .conftest import LENGTH, write_trained_model, write_training_set

FAST = OptimiseConfig(
    repeats=3,
    batches=(1, 64),
    min_speedup=1e9,  # timings of a graph this small would decide at random
    calibration_rows=64,
    review_capacity=5,
    max_review_share=0.5,
    boosting=BoostConfig(rounds=0),
    student=StudentConfig(full=BoostConfig(rounds=0)),
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def servable(trained: Manifest, training_set: Manifest, lake: Path) -> Manifest:
    return optimise(trained, training_set, lake, FAST)


def test_the_served_graph_scores_like_the_trained_weights(
    servable: Manifest, trained: Manifest, training_set: Manifest
):
    data = TrainingSet(training_set)
    features, history = data.batch(data.rows_of("validation"), LENGTH)

    scores = ModelArtifact.open(servable.fetch(), served_file=FLOAT).score(features, history)

    with torch.inference_mode():
        logits = load_network(trained.fetch())(torch.tensor(features), torch.tensor(history))
    np.testing.assert_allclose(scores, torch.sigmoid(logits).numpy(), atol=1e-6)


def test_trees_in_the_graph_answer_like_the_booster_beside_the_model(
    trained: Manifest, training_set: Manifest, tmp_path: Path
):
    data, model = TrainingSet(training_set), load_network(trained.fetch())
    features, history = data.batch(data.rows_of("validation"), LENGTH)
    trees = Trees(fit(model, data, BoostConfig(rounds=20, min_child_weight=0.1)), 0.75)

    export_class(model, (features[:2], history[:2]), tmp_path / FLOAT, trees)

    session = load_graph(tmp_path / FLOAT)
    (scores,) = session.run(["score"], {"features": features, "history": history})
    np.testing.assert_allclose(scores, torch_scores(model, (features, history), trees), atol=1e-5)
    assert np.abs(scores - torch_scores(model, (features, history))).max() > 0.01


def test_trees_are_served_where_validation_rows_say_so(trained: Manifest, training_set: Manifest, tmp_path: Path):
    boosting = BoostConfig(rounds=5, min_child_weight=0.1)

    result = optimise(trained, training_set, tmp_path, replace(FAST, boosting=boosting))

    found = ModelArtifact.open(result.fetch()).spec.optimisation["boosting"]
    best = max(value for value in found["average_precision"].values())
    assert found["average_precision"][str(found["weight"])] == best


def test_what_training_wrote_is_kept(servable: Manifest, trained: Manifest):
    document = json.loads((servable.fetch() / "model.json").read_text())

    assert document["note"] == "kept"
    assert document["parameters"] == json.loads((trained.fetch() / "model.json").read_text())["parameters"]
    assert servable.files["weights.safetensors"] == trained.files["weights.safetensors"]
    assert servable.parents == {"training_set": "t" * 16, "snapshot": "s" * 16, "model": "m" * 16}
    servable.verify()


def test_every_graph_is_measured_and_the_figures_are_recorded(servable: Manifest):
    report = json.loads((servable.fetch() / "model.json").read_text())["optimisation"]

    assert [variant["file"] for variant in report["variants"]] == [FLOAT, INT8]
    assert all(variant["latency_us"].keys() == {"1", "64"} for variant in report["variants"])
    assert report["parity"]["passed"]
    assert 0 <= report["calibration"]["expected_calibration_error"] <= 1


def test_the_threshold_selects_about_as_many_units_as_can_be_reviewed(servable: Manifest):
    report = json.loads((servable.fetch() / "model.json").read_text())["optimisation"]["threshold"]

    assert report["value"] == servable.facts["decision_threshold"]
    assert report["days"] == 2
    assert abs(report["units_per_day"] - 5) <= 1


def test_the_reference_window_holds_features_and_scores_of_validation_rows(servable: Manifest, training_set: Manifest):
    reference = pq.read_table(servable.fetch() / "reference_window.parquet")
    data = TrainingSet(training_set)

    assert reference.column_names == [*FEATURE_NAMES, "score"]
    np.testing.assert_array_equal(reference["amount"].to_numpy(), data.features[data.rows_of("validation"), 0])


def test_the_reference_window_is_a_seeded_sample(trained: Manifest, training_set: Manifest, tmp_path: Path):
    config = replace(FAST, reference_rows=50)

    first = optimise(trained, training_set, tmp_path / "a", config)
    second = optimise(trained, training_set, tmp_path / "b", config)

    assert pq.read_metadata(first.fetch() / "reference_window.parquet").num_rows == 50
    assert first.files["reference_window.parquet"] == second.files["reference_window.parquet"]
    assert first.id == second.id


def test_a_finished_model_is_not_made_again(servable: Manifest, trained: Manifest, training_set: Manifest, lake: Path):
    stamp = (servable.fetch() / FLOAT).stat().st_mtime_ns

    again = optimise(trained, training_set, lake, FAST)

    assert again == servable
    assert (servable.fetch() / FLOAT).stat().st_mtime_ns == stamp
    assert optimise(trained, training_set, lake, replace(FAST, review_capacity=6)).id != servable.id


def test_other_code_makes_another_model(
    servable: Manifest, trained: Manifest, training_set: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(core, "code_of", lambda *_: "edited")

    assert optimise(trained, training_set, tmp_path, FAST).id != servable.id


def test_a_graph_that_is_not_torchs_equal_is_blocked_and_leaves_nothing(
    trained: Manifest, training_set: Manifest, tmp_path: Path
):
    with pytest.raises(GateBlocked, match="max_abs_difference"):
        optimise(trained, training_set, tmp_path, replace(FAST, parity_limit=-1.0))

    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("got", [[0.5, np.nan], [0.5, 0.7]])
def test_parity_fails_for_a_difference_and_for_a_score_that_is_no_number(got: list[float]):
    wanted = np.array([0.5, 0.6], np.float32)

    assert not check_parity(np.array(got, np.float32), wanted[:1], wanted, 1e-4).passed


def test_parity_fails_when_a_score_depends_on_its_neighbours():
    wanted = np.array([0.5, 0.6], np.float32)

    verdict = check_parity(wanted, np.array([0.51], np.float32), wanted, 1e-4)

    assert [rule.name for rule in verdict.failures] == ["batch_dependence"]


def variant(file: str, loss_high: float, one: float, many: float) -> Variant:
    return Variant(
        file=file,
        size_bytes=1,
        average_precision=0.7,
        interval=(0.6, 0.8),
        loss_high=loss_high,
        max_abs_difference=0.0,
        latency_us={1: one, 64: many},
    )


CHOICE = replace(FAST, min_speedup=1.1)


@pytest.mark.parametrize(
    ("loss_high", "one", "many", "served"),
    [
        (0.0, 100, 800, INT8),
        (0.001, 80, 1000, INT8),
        (0.01, 50, 500, FLOAT),  # may lose too much
        (0.0, 95, 950, FLOAT),  # hardly faster
        (0.0, 110, 500, FLOAT),  # slower for one row
        (np.nan, 50, 500, FLOAT),  # nothing to judge the loss by
    ],
)
def test_int8_is_served_only_where_it_is_as_good_and_faster(loss_high: float, one: float, many: float, served: str):
    variants = {FLOAT: variant(FLOAT, 0.0, 100, 1000), INT8: variant(INT8, loss_high, one, many)}

    assert choose(variants, CHOICE).file == served


def test_the_fastest_of_those_within_the_budget_is_served():
    graphs = [
        variant(FLOAT, 0.0, 100, 1000),
        variant(INT8, 0.0, 80, 800),
        variant(STUDENT, 0.001, 10, 90),
        variant("worse.onnx", 0.1, 1, 1),
    ]

    assert choose({graph.file: graph for graph in graphs}, CHOICE).file == STUDENT


def test_no_validation_rows_is_an_error(trained: Manifest, tmp_path: Path):
    empty = write_training_set(tmp_path / "training_set", customers=4, validation=False)

    with pytest.raises(InvalidInput, match="no labelled validation rows"):
        optimise(trained, empty, tmp_path, FAST)


def test_weights_that_changed_after_training_are_refused(training_set: Manifest, tmp_path: Path):
    trained = write_trained_model(tmp_path / "trained")
    (tmp_path / "trained" / "weights.safetensors").write_bytes(b"other")

    with pytest.raises(ArtifactCorrupt, match=r"weights\.safetensors"):
        optimise(trained, training_set, tmp_path, FAST)
