"""What trees expect of training rows, and how much of it a network learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from components.train.core import TrainConfig
from components.train.parallel import Process
from components.train.teacher import PARTS, expected_logits, read_expected, write_expected
from components.train.trainer import Trainer
from components.train.worker import JOB, MODEL, run
from millrace.artifacts import Manifest
from millrace.atomic import write_text
from millrace.errors import NotFound
from millrace.fraud.boosting import BoostConfig
from millrace.fraud.model import load_model
from millrace.fraud.training_set import TrainingSet

TREES = BoostConfig(rounds=5, negative_share=1.0, min_child_weight=0.1)
ALONE = Process(0, 1, torch.device("cpu"))
SmallConfig = Callable[..., TrainConfig]


def test_what_is_expected_of_a_row_does_not_depend_on_its_own_label(
    training_set: Manifest, small_config: SmallConfig
) -> None:
    data = TrainingSet(training_set)
    honest = expected_logits(data, small_config(), TREES)
    rows = data.rows_of("train")
    first = np.arange(len(rows)) * PARTS // len(rows) == 0
    turned = np.array(data.label)
    turned[rows[first]] = 1 - turned[rows[first]]
    data.label = turned

    lied = expected_logits(data, small_config(), TREES)

    assert np.array_equal(honest[first], lied[first])
    assert not np.array_equal(honest[~first], lied[~first])


def test_frauds_are_expected_more_than_the_rest(training_set: Manifest, small_config: SmallConfig) -> None:
    data = TrainingSet(training_set)

    expected = expected_logits(data, small_config(), TREES)

    label = data.label[data.rows_of("train")]
    assert np.median(expected[label == 1]) > np.quantile(expected[label == 0], 0.9)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_target_lies_between_label_and_teacher(
    training_set: Manifest, small_config: SmallConfig, share: float
) -> None:
    data = TrainingSet(training_set)
    rows = data.rows_of("train")
    config = small_config(teacher_share=share, negative_share=1.0)

    trainer = Trainer(data, config, ALONE, np.zeros(len(rows), np.float32))

    target = trainer.inputs(rows)[2].numpy()
    assert np.allclose(target, (1.0 - share) * data.label[rows] + share * 0.5)


def test_without_a_teacher_labels_are_learned(training_set: Manifest, small_config: SmallConfig) -> None:
    data = TrainingSet(training_set)

    trainer = Trainer(data, small_config(), ALONE)

    rows = data.rows_of("train")
    assert np.array_equal(trainer.inputs(rows)[2].numpy(), data.label[rows])


def test_a_resumed_run_keeps_what_was_expected(
    training_set: Manifest, small_config: SmallConfig, tmp_path: Path
) -> None:
    data, config = TrainingSet(training_set), small_config(teacher_share=0.5)
    write_expected(data, config, tmp_path)
    written = (tmp_path / "expected.npy").stat().st_mtime_ns

    write_expected(data, config, tmp_path)

    read = read_expected(tmp_path, config)
    assert (tmp_path / "expected.npy").stat().st_mtime_ns == written
    assert read is not None
    assert len(read) == len(data.rows_of("train"))


def test_no_teacher_leaves_no_file(training_set: Manifest, small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(teacher_share=0.0)

    write_expected(TrainingSet(training_set), config, tmp_path)

    assert read_expected(tmp_path, config) is None
    assert not list(tmp_path.glob("*.npy"))


def test_a_job_that_lost_its_teacher_does_not_go_on_without(small_config: SmallConfig, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="teacher_share"):
        read_expected(tmp_path, small_config(teacher_share=0.5))


def test_a_taught_network_differs_from_one_that_learned_labels(
    training_set: Manifest, small_config: SmallConfig, tmp_path: Path
) -> None:
    weights = []
    for share in (0.0, 0.5):
        config, job = small_config(epochs=1, teacher_share=share), tmp_path / str(share)
        job.mkdir()
        write_text(
            job / JOB, json.dumps({"config": config.model_dump(), "training_set": training_set.uri, "description": {}})
        )
        write_expected(TrainingSet(training_set), config, job)

        run(job, ALONE)

        weights.append(load_model(job / MODEL).state_dict())
    labels, taught = weights
    assert all(torch.equal(labels[name], taught[name]) for name in ("centre", "spread", "piecewise.low"))
    assert not torch.equal(labels["join.weight"], taught["join.weight"])
