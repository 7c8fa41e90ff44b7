"""A model trained for real on a small simulated world, and held-out rows of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pytest
import torch
from torch import Tensor

from components.assemble.core import assemble
from components.assemble.splits import SplitSpec
from components.build_features.core import build_features
from components.train.core import read_config
from components.train.parallel import Process
from components.train.trainer import Trainer
from fraud import simulator
from millrace.installed import load
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.tabular.network import Network

FRAUD = load("fraud")
START = date(2026, 1, 1)
DAYS = 60


@dataclass(frozen=True)
class Trained:
    model: Network
    features: Tensor
    history: Tensor
    label: np.ndarray

    def scores(self, features: Tensor | None = None, history: Tensor | None = None) -> np.ndarray:
        """Probabilities of the held-out rows, or of changed ones."""
        with torch.no_grad():
            logit = self.model(
                self.features if features is None else features, self.history if history is None else history
            )
        return torch.sigmoid(logit).numpy()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("world")
    config = simulator.SimulationConfig(customers=200, terminals=400, days=DAYS, radius=15.0, start=START, seed=5)
    tables = {path.stem: str(path) for path in simulator.write(config, root / "raw")}
    facts = {"tables": {"events": tables}, "first_day": str(START), "last_day": max(tables)}
    snapshot = Manifest(kind="snapshot", id="world", workload="fraud", uri=str(root), facts=facts)
    feature_set = build_features(snapshot, root / "lake", history_length=32)
    spec = SplitSpec(test_start=START + timedelta(days=DAYS - 14), delay_days=7, train_days=30, validation_days=3)
    torch.set_num_threads(1)  # as in production; more of them wait for each other on matrices this small
    rows = TrainingSet(assemble(feature_set, root / "lake", spec))
    small = read_config(FRAUD).model.model_dump() | {"sequence_length": 16, "bins": 16, "width": 64, "members": 1}
    hyper = read_config(FRAUD, epochs=5, batch_size=128, negative_share=0.5, model=small)
    trainer = Trainer(rows, hyper, Process(0, 1, torch.device("cpu")))
    trainer.fit_preprocessing()
    for epoch in range(hyper.epochs):
        trainer.epoch(epoch)
    features, history, _ = trainer.feed.batch(rows.rows_of("test"))
    return Trained(trainer.average, features, history, rows.label[rows.rows_of("test")])
