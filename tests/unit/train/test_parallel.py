"""Ways to spread a step over processes, and over time, that must not change what is learnt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.train.checkpoint import CHECKPOINT, CURVE
from components.train.core import AnyTrainConfig, model_id
from components.train.parallel import Process
from components.train.torchrun import ENVIRONMENT
from components.train.trainer import Trainer
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.tabular.weights import load_network

ALONE = Process(0, 1, torch.device("cpu"))
JOBS = {
    "whole": {},
    "accumulated": {"accumulate": 3},
    "divided": {"parallel": "fsdp"},
    "broken": {"parallel": "fsdp"},
}


def without_dropout(small_config: Callable[..., AnyTrainConfig], **changes: Any) -> AnyTrainConfig:
    return small_config(**{"epochs": 3, "model": small_config().model.model_dump() | {"dropout": 0.0}} | changes)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    made_set: Callable[..., Manifest],
    small_config: Callable[..., AnyTrainConfig],
) -> Path:
    """JOBS, each in its folder, trained by two processes that torchrun started once for all of them."""
    base = tmp_path_factory.mktemp("together")
    training_set = made_set(base / "set")
    for name, changes in JOBS.items():
        (base / name).mkdir()
        config = without_dropout(small_config, **changes).model_dump()
        job = {"training_set": training_set.uri, "config": config, "description": {"name": name}}
        (base / name / "job.json").write_text(json.dumps(job))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(__file__).with_name("jobs_together.py")
    subprocess.run([*launch, script, *(base / name for name in JOBS)], check=True, env=os.environ | ENVIRONMENT)
    return base


def curve(folder: Path) -> list[dict[str, float]]:
    points: list[dict[str, float]] = json.loads((folder / CURVE).read_text())
    return points


def assert_alike(one: Path, other: Path) -> None:
    """The same metric in every epoch, and the same weights but for the order of sums."""
    metrics = [[point["average_precision"] for point in curve(folder)] for folder in (one, other)]
    assert metrics[0] == pytest.approx(metrics[1], abs=2e-3)
    torch.testing.assert_close(
        load_network(one / "model").state_dict(), load_network(other / "model").state_dict(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["accumulated", "divided"])
def test_two_processes_learn_the_same_however_a_step_is_spread(trained: Path, how: str) -> None:
    assert_alike(trained / "whole", trained / how)


@pytest.mark.slow
def test_divided_weights_are_kept_whole_and_a_run_goes_on_from_them_with_the_same_weights(trained: Path) -> None:
    ddp, fsdp = (torch.load(trained / name / CHECKPOINT, weights_only=True) for name in ("whole", "divided"))

    shapes = [{name: tensor.shape for name, tensor in one["trainer"]["average"].items()} for one in (ddp, fsdp)]
    assert shapes[0] == shapes[1]
    one, other = (load_network(trained / name / "model").state_dict() for name in ("divided", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(curve(trained / "broken")) == 3


@pytest.mark.parametrize("parts", [2, 3, 1_000])
def test_a_step_in_parts_is_the_step_of_the_whole(
    training_set: Manifest, small_config: Callable[..., AnyTrainConfig], parts: int
) -> None:
    rows = TrainingSet(training_set)
    whole, cut = (Trainer(rows, without_dropout(small_config, accumulate=n), ALONE) for n in (1, parts))
    losses = []

    for trainer in (whole, cut):
        trainer.fit_preprocessing()
        losses.append(
            [trainer.step(trainer.feed.batch(part), number) for number, part in enumerate(trainer.order(0)[:3])]
        )

    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole.model.state_dict(), cut.model.state_dict(), rtol=1e-3, atol=1e-4)


def test_bfloat16_learns_about_the_same_and_keeps_float32(
    training_set: Manifest, small_config: Callable[..., AnyTrainConfig]
) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(TrainingSet(training_set), small_config(precision=precision), ALONE)
        trainer.fit_preprocessing()
        for number in range(4):
            trainer.epoch(number)
        found[precision] = trainer.validate()["average_precision"]
        assert {tensor.dtype for tensor in trainer.average.state_dict().values()} == {torch.float32}

    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.05)
    assert found["bfloat16"] > 0.3  # a tenth of the rows are frauds


def test_how_a_model_is_spread_is_part_of_its_id(
    training_set: Manifest, small_config: Callable[..., AnyTrainConfig]
) -> None:
    changes = ({}, {"accumulate": 2}, {"parallel": "fsdp"}, {"precision": "bfloat16"})

    assert len({model_id(training_set, small_config(**change), 2) for change in changes}) == len(changes)
