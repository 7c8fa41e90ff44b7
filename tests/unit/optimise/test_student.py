"""What learns from the served scores, and the cascade that optimise writes with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from components.optimise.cascade import CASCADE, CascadeConfig
from components.optimise.config import OptimiseConfig
from components.optimise.core import optimise
from components.optimise.graphs import FLOAT, scorer_of
from components.optimise.student import (
    STUDENT,
    StudentConfig,
    distil,
    lessons,
    node_count,
    write_cheap,
    write_student,
)
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.registry.model_artifact import CHEAP, ModelArtifact
from millrace.tabular.boosting import BoostConfig
from millrace.tabular.weights import load_network

from .conftest import LENGTH

SMALL = BoostConfig(rounds=30, depth=3, learning_rate=0.3, min_child_weight=0.1)
LENIENT = OptimiseConfig(
    repeats=3,
    min_speedup=1e9,
    calibration_rows=64,
    review_capacity=5,
    max_review_share=0.5,
    boosting=BoostConfig(rounds=0),
    student=StudentConfig(full=SMALL, cheap=SMALL),
    cascade=CascadeConfig(min_saved_share=0.1, max_ap_loss=1.0, shares=(0.5, 0.4, 0.3), resamples=20),
)


@pytest.fixture(scope="module")
def servable(trained: Manifest, training_set: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return optimise(trained, training_set, tmp_path_factory.mktemp("lake"), LENIENT)


def test_the_reference_window_is_scored_as_the_server_scores(servable: Manifest, training_set: Manifest):
    data = TrainingSet(training_set)
    inputs = data.batch(data.rows_of("validation"), LENGTH)
    artifact = ModelArtifact.open(servable.fetch(), cascade=True)

    outputs, stages = artifact.run(*inputs)
    scores = outputs["score"]

    reference = pq.read_table(servable.fetch() / "reference_window.parquet")["score"].to_numpy()
    np.testing.assert_array_equal(reference, artifact.score(*inputs))
    np.testing.assert_array_equal(reference, scores)
    tried = artifact.spec.optimisation["cascade"]["tried"][-1]
    assert (stages == CHEAP).mean() == pytest.approx(tried["saved_share"])
    assert 0 < (stages == CHEAP).mean() < 1


def test_a_cascade_that_is_switched_off_is_there_and_scores_nothing(
    trained: Manifest, training_set: Manifest, tmp_path: Path
):
    config = replace(LENIENT, cascade=replace(LENIENT.cascade, in_use=False))
    data = TrainingSet(training_set)
    inputs = data.batch(data.rows_of("validation"), LENGTH)

    model = optimise(trained, training_set, tmp_path, config)

    reference = pq.read_table(model.fetch() / "reference_window.parquet")["score"].to_numpy()
    np.testing.assert_array_equal(reference, ModelArtifact.open(model.fetch(), cascade=False).score(*inputs))
    assert ModelArtifact.open(model.fetch(), cascade=True).cascade is not None


def test_bounds_that_cannot_be_kept_leave_no_cascade_and_the_reason(
    trained: Manifest, training_set: Manifest, tmp_path: Path
):
    config = replace(LENIENT, cascade=replace(LENIENT.cascade, max_ap_loss=-1.0))

    model = optimise(trained, training_set, tmp_path, config)

    document = json.loads((model.fetch() / "model.json").read_text())
    assert "cascade" not in document
    assert CASCADE not in model.files
    assert "no share" in document["optimisation"]["cascade"]["why_not"]
    assert ModelArtifact.open(model.fetch(), cascade=True).cascade is None


def test_the_student_is_measured_and_stands_alone(servable: Manifest, training_set: Manifest):
    data = TrainingSet(training_set)
    inputs = data.batch(data.rows_of("validation"), LENGTH)
    variants = {item["file"]: item for item in ModelArtifact.open(servable.fetch()).spec.optimisation["variants"]}

    scores = ModelArtifact.open(servable.fetch(), served_file=STUDENT).score(*inputs)

    assert 0 < variants[STUDENT]["decision_threshold"] < 1
    assert variants[STUDENT]["parameters"] > 0
    assert variants[STUDENT]["latency_us"].keys() == {"1", "8", "64"}
    assert np.ptp(scores) > 0


def test_a_student_comes_near_its_teacher_and_is_the_same_again(
    trained: Manifest, training_set: Manifest, servable: Manifest
):
    data, network = TrainingSet(training_set), load_network(trained.fetch())
    teacher = scorer_of(servable.fetch() / FLOAT)
    more = BoostConfig(rounds=60, depth=4, learning_rate=0.2, min_child_weight=0.1, negative_share=1.0)
    learned = lessons(network, data, teacher, StudentConfig(full=more, label_share=0.0))

    students = [distil(learned, more) for _ in range(2)]

    assert bytes(students[0].save_raw("ubj")) == bytes(students[1].save_raw("ubj"))
    got = students[0].inplace_predict(learned.columns)
    assert np.corrcoef(got, learned.target)[0, 1] > 0.8
    assert node_count(students[0]) == len(students[0].trees_to_dataframe())


def test_the_students_graphs_answer_like_their_trees(
    trained: Manifest, training_set: Manifest, servable: Manifest, tmp_path: Path
):
    data, network = TrainingSet(training_set), load_network(trained.fetch())
    features, history = data.batch(data.rows_of("validation"), LENGTH)
    learned = lessons(network, data, scorer_of(servable.fetch() / FLOAT), LENIENT.student)
    student = distil(learned, SMALL)
    cheap = distil(learned, SMALL, features.shape[1])
    write_student(network, student, (features[:2], history[:2]), tmp_path / STUDENT)
    write_cheap(cheap, features.shape[1], tmp_path / CASCADE)

    got = [scorer_of(tmp_path / name)(features, history) for name in (STUDENT, CASCADE)]

    columns = network.columns(torch.from_numpy(features), torch.from_numpy(history)).numpy()
    np.testing.assert_allclose(got[0], student.inplace_predict(columns), atol=1e-5)
    np.testing.assert_allclose(got[1], cheap.inplace_predict(features), atol=1e-5)
