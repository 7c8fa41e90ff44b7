"""The loop of one process, run in this one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.train.checkpoint import CHECKPOINT, CURVE
from components.train.core import AnyTrainConfig
from components.train.parallel import Process
from components.train.trainer import Trainer
from components.train.worker import run
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.tabular.weights import load_network

ALONE = Process(0, 1, torch.device("cpu"))


def job(folder: Path, training_set: Manifest, config: AnyTrainConfig) -> Path:
    folder.mkdir(parents=True)
    description = {"training_set": training_set.uri, "config": config.model_dump(), "description": {"name": "x"}}
    (folder / "job.json").write_text(json.dumps(description))
    return folder


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_network(one).state_dict(), load_network(other).state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    training_set: Manifest, small_config, tmp_path: Path
) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        run(job(tmp_path / name, training_set, small_config(seed=seed, epochs=1)), ALONE)

    assert same_weights(tmp_path / "one" / "model", tmp_path / "two" / "model")
    assert not same_weights(tmp_path / "one" / "model", tmp_path / "three" / "model")


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_run_resumed_from_any_epoch_ends_with_the_same_weights(
    training_set: Manifest, small_config, tmp_path: Path, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = job(tmp_path / "whole", training_set, small_config())
    broken = job(tmp_path / "broken", training_set, small_config())
    run(whole, ALONE)
    validate, calls = Trainer.validate, []

    def fail_once(self: Trainer) -> dict[str, float]:
        calls.append(1)
        if len(calls) == killed_after + 1:
            raise KeyboardInterrupt
        return validate(self)

    monkeypatch.setattr(Trainer, "validate", fail_once)

    with pytest.raises(KeyboardInterrupt):
        run(broken, ALONE)
    assert len(json.loads((broken / CURVE).read_text())) == killed_after
    run(broken, ALONE)

    assert same_weights(whole / "model", broken / "model")
    assert len(json.loads((broken / CURVE).read_text())) == 4


def test_the_model_kept_is_the_best_epoch_s_not_the_last(training_set: Manifest, small_config, tmp_path: Path) -> None:
    folder = job(tmp_path / "job", training_set, small_config(learning_rate=0.5, epochs=6, patience=2))

    run(folder, ALONE)

    saved = torch.load(folder / CHECKPOINT, weights_only=True)
    kept = load_network(folder / "model").state_dict()
    assert all(torch.equal(kept[name], saved["best"][name]) for name in kept)
    curve = json.loads((folder / CURVE).read_text())
    best = max(curve, key=lambda point: point["average_precision"])["epoch"]
    assert curve[-1]["epoch"] == 5 or curve[-1]["epoch"] - best == 2


def test_scores_are_calibrated_although_genuine_rows_are_left_out(made_set, small_config, tmp_path: Path) -> None:
    training_set = made_set(tmp_path / "set", rows=4_000, fraud_share=0.05)
    folder = job(tmp_path / "job", training_set, small_config(negative_share=0.3, epochs=20, learning_rate=0.01))

    run(folder, ALONE)

    rows = TrainingSet(training_set)
    train = rows.rows_of("train")
    features, history = (torch.from_numpy(array) for array in rows.batch(train, 8))
    mean = torch.sigmoid(load_network(folder / "model")(features, history)).mean().item()
    assert 0.7 < mean / rows.label[train].mean() < 1.4  # without the correction it is about 3


def test_two_halves_of_a_batch_give_the_gradient_of_the_whole(training_set: Manifest, small_config) -> None:
    config = small_config(model=small_config().model.model_dump() | {"dropout": 0.0})
    trainer = Trainer(TrainingSet(training_set), config, ALONE)
    trainer.fit_preprocessing()
    rows = trainer.train_rows[:100]

    def gradient(part: np.ndarray) -> torch.Tensor:
        features, history, label = trainer.feed.batch(part)
        trainer.model.zero_grad()
        logit = trainer.model(features, history)
        torch.nn.functional.binary_cross_entropy_with_logits(logit, label).backward()
        return torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])

    halves = (gradient(rows[0::2]) + gradient(rows[1::2])) / 2
    torch.testing.assert_close(gradient(rows), halves, rtol=1e-4, atol=1e-6)


def test_preprocessing_is_fitted_on_training_rows_only(made_set, small_config, tmp_path: Path) -> None:
    manifest = made_set(tmp_path / "set", rows=500)
    trainer = Trainer(TrainingSet(manifest), small_config(), ALONE)
    trainer.fit_preprocessing()
    before = {name: tensor.clone() for name, tensor in trainer.model.named_buffers()}
    path = manifest.path("features.npy")
    features = np.load(path)
    features[np.load(manifest.path("split.npy")) != 0] = 1e6
    np.save(path, features)

    trainer = Trainer(TrainingSet(manifest), small_config(), ALONE)
    trainer.fit_preprocessing()

    for name, tensor in trainer.model.named_buffers():
        assert torch.equal(tensor, before[name]), name
