"""What the training benchmark makes of its turns, and that its contenders compute on the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import training
from benchmarks.training import CONTENDERS
from components.train.core import read_config
from components.train.parallel import Process
from components.train.trainer import Trainer
from millrace.lake.training_set import TrainingSet


def test_ratios_are_of_neighbouring_turns() -> None:
    moments = 1.0, 0.25, 1.0  # in the second round the machine gave a quarter
    speeds = {name: [100.0 * share for share in moments] for name in CONTENDERS}
    speeds["two_processes"] = [180.0 * share for share in moments]
    costs = {name: [10.0, 10.0, 30.0] for name in CONTENDERS}

    figures = training._figures(speeds, costs)

    assert figures["speedup_2"] == figures["vs_bare_loop"] == pytest.approx(1.8)
    assert figures["ceiling_2"] == pytest.approx(1.0)
    assert figures["speedup_2_by_cpu"] == pytest.approx(2.0)


def test_every_contender_computes_on_as_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STEPS", 1)
    rows = TrainingSet(training._random_set(tmp_path / "set", rows=3_000))
    config = read_config(rows.workload, batch_size=64)

    whole = training.bare_turn(rows, config, rank=0, world=1)()
    halves = [training.bare_turn(rows, config, rank, world=2)() for rank in (0, 1)]
    trained = training.trainer_turn(Trainer(rows, config, Process(0, 1, torch.device("cpu"))))()

    assert whole == sum(halves) == trained == 64
