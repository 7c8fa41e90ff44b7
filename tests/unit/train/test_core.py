"""Hyper-parameters, sampling, the schedule and when to stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from components.train import core
from components.train.core import (
    Progress,
    config_type,
    epoch_rows,
    model_id,
    network_of,
    rate_at,
    read_config,
    require_trainable,
    shard,
)
from components.train.parallel import Process
from components.train.trainer import Trainer
from millrace.errors import ConfigError, InvalidInput
from millrace.installed import load
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.tabular.network import Watched

ALONE = Process(0, 1, torch.device("cpu"))
FRAUD = load("fraud")
DEFAULT_CONFIG = FRAUD.model.TRAIN_CONFIG
SIZES = yaml.safe_load(DEFAULT_CONFIG.read_text())["model"]


def labelled(rows: int = 1_000, positives: int = 20) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(rows) + 7, (np.arange(rows) < positives).astype(np.int8)


def test_the_default_file_is_a_valid_configuration() -> None:
    assert read_config(FRAUD) == config_type(FRAUD)(**yaml.safe_load(DEFAULT_CONFIG.read_text()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rat": 0.1}, "learning_rat"),
        ({"epochs": "ten"}, "epochs is 'ten'"),
        ({"epochs": 1.5}, r"epochs is 1\.5"),
        ({"epochs": 0}, "epochs is 0"),
        ({"negative_share": 0.0}, "negative_share"),
        ({"seed": True}, "seed is True"),
        ({"learning_rate": "nan"}, "learning_rate"),
        ({"model": {"width": 8}}, r"model\.bins"),
        ({"model": None}, "model is None"),
        ({"model": {**SIZES, "depth": 3}}, r"model\.depth"),
        ({"model": {**SIZES, "heads": 3}}, "not a multiple of heads 3"),
        ({"model": {**SIZES, "width": 0}}, r"model\.width is 0"),
        ({"model": {**SIZES, "dropout": 1.0}}, r"model\.dropout"),
        ({"model": {**SIZES, "blocks": -1}}, r"model\.blocks"),
        ({"model": {**SIZES, "members": 0}}, r"model\.members"),
        ({"model": {**SIZES, "embedding": -1}}, r"model\.embedding"),
    ],
)
def test_a_wrong_configuration_names_key_value_and_file(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(DEFAULT_CONFIG.read_text()) | changes))

    with pytest.raises(ConfigError, match=said) as caught:
        read_config(FRAUD, path)

    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "epochs: [", "5"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        read_config(FRAUD, path)


def test_an_epoch_sees_every_positive_once_and_the_asked_share_of_the_rest(small_config) -> None:
    rows, label = labelled()

    config = small_config(negative_share=0.25)
    seen = np.concatenate(epoch_rows(network_of(FRAUD, config), rows, label, config, 0))

    assert len(seen) == len(set(seen)) == 20 + 245
    assert set(rows[label == 1]) <= set(seen)


def test_epochs_draw_anew_and_the_same_epoch_draws_the_same(small_config) -> None:
    rows, label = labelled()
    config = small_config(negative_share=0.25)
    network = network_of(FRAUD, config)

    first, again, second = (np.concatenate(epoch_rows(network, rows, label, config, epoch)) for epoch in (0, 0, 1))

    np.testing.assert_array_equal(first, again)
    assert set(first) != set(second)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_of_a_batch_are_equal_in_size_and_do_not_overlap(world: int) -> None:
    batch = np.arange(101)

    shards = [shard(batch, rank, world) for rank in range(world)]

    assert len({len(part) for part in shards}) == 1
    assert len(set(np.concatenate(shards))) == 101 - 101 % world


def test_every_epoch_has_as_many_steps(training_set: Manifest, small_config) -> None:
    for share in (0.01, 0.3, 1.0):
        trainer = Trainer(TrainingSet(training_set), small_config(negative_share=share, batch_size=64), ALONE)

        assert {len(trainer.order(epoch)) for epoch in range(3)} == {trainer.steps}


def test_the_rate_rises_then_falls_to_zero(small_config) -> None:
    config = small_config(warmup_share=0.2, learning_rate=0.1)

    rates = [rate_at(step, 100, config) for step in range(101)]

    assert np.argmax(rates) in (19, 20)
    assert max(rates) == pytest.approx(0.1)
    assert rates[100] == pytest.approx(0.0)
    assert (np.diff(rates[20:]) < 0).all()


def test_training_stops_when_patience_is_over_and_keeps_the_earliest_best() -> None:
    progress = Progress(2, Watched("average_precision", higher_is_better=True), [])
    stops = []
    for epoch, value in enumerate([0.5, 0.7, 0.7, 0.6]):
        progress.curve.append({"epoch": epoch, "average_precision": value})
        stops.append((progress.improved, progress.finished))

    assert stops == [(True, False), (True, False), (False, False), (False, True)]
    assert progress.best["epoch"] == 1


def test_where_lower_is_better_the_lowest_is_kept() -> None:
    progress = Progress(2, Watched("mean_absolute_error", higher_is_better=False), [])
    for epoch, value in enumerate([0.5, 0.3, 0.4]):
        progress.curve.append({"epoch": epoch, "mean_absolute_error": value})

    assert progress.best["epoch"] == 1
    assert not progress.improved


def test_the_id_follows_rows_hyper_parameters_processes_and_code(
    training_set: Manifest, small_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model_id(training_set, small_config(), 1)

    assert model_id(training_set, small_config(), 1) == first
    assert model_id(training_set, small_config(seed=2), 1) != first
    assert model_id(training_set, small_config(), 2) != first
    monkeypatch.setattr(core, "code_of", lambda *_: "edited")
    assert model_id(training_set, small_config(), 1) != first


def test_rows_that_cannot_train_are_refused_before_anything_starts(made_set, small_config, tmp_path: Path) -> None:
    none = TrainingSet(made_set(tmp_path / "none", rows=500, fraud_share=0.0))
    with pytest.raises(InvalidInput, match="train rows hold 0 positives"):
        require_trainable(none, small_config())

    good = TrainingSet(made_set(tmp_path / "good", rows=500))
    with pytest.raises(InvalidInput, match="keeps 8"):
        require_trainable(good, small_config(model=small_config().model.model_dump() | {"sequence_length": 9}))
