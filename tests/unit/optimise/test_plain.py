"""From a trained network of a quantity to one graph with an interval, and what serves it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rows import MachineRows

from components.optimise.config import OptimiseConfig
from components.optimise.core import REFERENCE, _make
from components.optimise.interval import calibrate
from components.train.core import read_config
from components.train.parallel import Process
from components.train.trainer import Trainer
from millrace.errors import InvalidInput
from millrace.installed import Workload
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.model_artifact import FULL, ModelArtifact
from millrace.tabular.boosting import ABSOLUTE_ERROR, SQUARED_ERROR, BoostConfig
from millrace.tabular.plain import PlainQuantityNetwork
from millrace.tabular.weights import save_network
from serving.predictor.batching import Batcher
from serving.predictor.core import Scorer

FAST = OptimiseConfig(repeats=3, batches=(1, 8))
TREES = BoostConfig(objective=ABSOLUTE_ERROR, rounds=60, depth=4, learning_rate=0.1)
SMALL = {"bins": 8, "embedding": 4, "width": 16, "blocks": 1, "dropout": 0.0}


@pytest.fixture
def rows(machines: Workload) -> MachineRows:
    torch.set_num_threads(1)
    return MachineRows(machines)


def servable(rows: MachineRows, folder: Path, trees: BoostConfig, epochs: int = 2) -> ModelArtifact:
    """A network trained for a little, optimised, and opened."""
    config = read_config(rows.workload, epochs=epochs, batch_size=256, model=SMALL)
    trainer = Trainer(rows, config, Process(0, 1, torch.device("cpu")))
    trainer.fit_preprocessing()
    for epoch in range(epochs):
        trainer.epoch(epoch)
    folder.mkdir()
    save_network(trainer.average.eval(), rows.workload, folder, name="machine-hours")
    _make(trainer.average.eval(), rows, folder, OptimiseConfig(repeats=3, batches=(1, 8), boosting=trees))
    Manifest(kind="model", id="m", workload="machines", uri=str(folder), files=hash_files(folder)).write()
    return ModelArtifact.open(folder)


def test_a_quantity_is_served_as_score_low_and_high_from_features_alone(rows: MachineRows, tmp_path: Path) -> None:
    artifact = servable(rows, tmp_path / "m", TREES)
    test = rows.rows_of("test")

    outputs = artifact.predict(rows.features[test])

    assert list(outputs) == ["score", "low", "high"]
    assert all(values.dtype == np.float32 and values.shape == (len(test),) for values in outputs.values())
    np.testing.assert_array_equal(artifact.score(rows.features[test]), outputs["score"])
    assert (outputs["low"] <= outputs["score"]).all()
    assert (outputs["score"] <= outputs["high"]).all()
    held = (outputs["low"] <= rows.label[test]) & (rows.label[test] <= outputs["high"])
    assert 0.7 < held.mean() < 0.9  # 0.8 was asked for


def test_what_was_measured_of_a_quantity_has_no_place_for_reviews(rows: MachineRows, tmp_path: Path) -> None:
    artifact = servable(rows, tmp_path / "m", TREES)

    document = json.loads((tmp_path / "m" / "model.json").read_text())
    measured = document["optimisation"]
    assert (document["workload"], document["task"], document["served_file"]) == ("machines", "regression", "model.onnx")
    assert measured.keys() == {"variants", "parity", "boosting", "interval"}
    assert not {"decision_threshold", "cascade", "history_channels", "sequence_length"} & document.keys()
    assert measured["interval"]["coverage"] == pytest.approx(0.8, abs=0.01)
    assert measured["parity"]["passed"]
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "model.json",
        "model.onnx",
        "weights.safetensors",
        REFERENCE,
        "manifest.json",
    }
    with pytest.raises(InvalidInput, match="no threshold makes a decision"):
        _ = artifact.decision_threshold


@pytest.mark.parametrize("objective", [ABSOLUTE_ERROR, SQUARED_ERROR])
def test_trees_are_served_beside_a_network_that_has_learned_little(
    rows: MachineRows, tmp_path: Path, objective: str
) -> None:
    alone = servable(rows, tmp_path / "alone", BoostConfig(objective=objective, rounds=0), epochs=1)
    mixed = servable(rows, tmp_path / "mixed", BoostConfig(objective=objective, rounds=60, learning_rate=0.1), epochs=1)
    test = rows.rows_of("test")

    errors = [np.abs(model.score(rows.features[test]) - rows.label[test]).mean() for model in (alone, mixed)]

    assert mixed.spec.optimisation["boosting"]["weight"] > 0
    assert errors[1] < errors[0]


def test_a_history_is_refused_by_a_model_that_reads_none(rows: MachineRows, tmp_path: Path) -> None:
    artifact = servable(rows, tmp_path / "m", BoostConfig(rounds=0))

    with pytest.raises(InvalidInput, match="reads no history"):
        artifact.score(rows.features[:2], np.zeros((2, 4, 4), np.float32))


def test_the_predictor_answers_every_output_and_asks_for_features_alone(rows: MachineRows, tmp_path: Path) -> None:
    scorer = Scorer(servable(rows, tmp_path / "m", BoostConfig(rounds=0)), "7")
    instances = [{"features": rows.features[row].tolist()} for row in range(3)]

    answer = scorer.answer_v1(*asyncio.run(Batcher(scorer).score(*scorer.tensors_v1({"instances": instances}))))

    assert [tensor.name for tensor in scorer.inputs] == ["features"]
    assert [tensor.name for tensor in scorer.outputs] == ["score", "low", "high", "stage"]
    assert answer.keys() == {"predictions", "low", "high", "stages", "model_version", "feature_service"}
    wanted = scorer.artifact.predict(rows.features[:3])
    for name, given in (("score", "predictions"), ("low", "low"), ("high", "high")):
        assert answer[given] == pytest.approx(wanted[name].tolist(), rel=1e-5)
    v2 = scorer.answer_v2(*scorer.score(rows.features[:3]))
    assert list(v2.outputs) == ["score", "low", "high", "stage"]
    assert v2.parameters == {"feature_service": "machine_hours_v1"}
    with pytest.raises(InvalidInput, match="field 'history' is unknown; wanted features"):
        scorer.tensors_v1({"instances": [{"features": [1.0, 2.0, 3.0], "history": []}]})


def test_rows_beyond_a_chunk_are_answered_in_order(rows: MachineRows, tmp_path: Path) -> None:
    artifact = servable(rows, tmp_path / "m", BoostConfig(rounds=0))

    outputs, stages = artifact.run(rows.features)

    assert (stages == FULL).all()
    np.testing.assert_allclose(outputs["high"][-3:], artifact.predict(rows.features[-3:])["high"], rtol=1e-5)


@pytest.mark.parametrize("asked", [0.5, 0.8, 0.95])
def test_an_interval_holds_what_was_asked_whatever_the_network_said(asked: float) -> None:
    rng = np.random.default_rng(0)
    label = rng.gamma(2.0, 5.0, 4_000).astype(np.float32)
    narrow = np.stack([label * 0 + 10, label * 0 + 9.9, label * 0 + 10.1], axis=1).astype(np.float32)
    wide = np.stack([label * 0 + 10, label * 0 - 50, label * 0 + 90], axis=1).astype(np.float32)

    for answers in (narrow, wide):
        found = calibrate(answers, label, asked)

        assert found.coverage == pytest.approx(asked, abs=0.01)
        assert found.width > 0


def test_trees_fitted_again_know_the_validation_rows_and_the_figures_stay_those_of_trees_that_did_not(
    rows: MachineRows, tmp_path: Path
) -> None:
    deep = replace(TREES, rounds=200, depth=8, min_child_weight=1.0)
    once, again = (servable(rows, tmp_path / str(refit), replace(deep, refit=refit)) for refit in (False, True))
    validation = rows.rows_of("validation")

    errors = [np.abs(one.score(rows.features[validation]) - rows.label[validation]).mean() for one in (once, again)]

    measured = [one.spec.optimisation["variants"][0]["mean_absolute_error"] for one in (once, again)]
    assert measured[0] == measured[1] == pytest.approx(errors[0], rel=1e-4)
    assert errors[1] < 0.95 * errors[0]
    assert once.spec.optimisation["interval"] == again.spec.optimisation["interval"]
    references = [(tmp_path / str(refit) / REFERENCE).read_bytes() for refit in (False, True)]
    assert references[0] == references[1]


def test_of_two_mixtures_with_the_same_mean_error_the_one_without_large_errors_is_served() -> None:
    label = np.zeros(4)

    even, uneven = (PlainQuantityNetwork.loss_of(label, np.array(error)) for error in ([1, 1, 1, 1], [0, 0, 0, 4]))

    assert even < uneven
