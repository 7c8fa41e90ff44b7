"""Nothing of a test week reaches a model: with the week poisoned, the weights and the trees are the same to the bit."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from components.assemble.core import assemble
from components.assemble.splits import SplitSpec
from components.build_features.core import build_features
from components.optimise import boosted, student
from components.optimise.export import torch_scores
from components.train.core import read_config
from components.train.parallel import Process
from components.train.trainer import Trainer
from fraud import simulator
from millrace.installed import load
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.tabular import boosting

FRAUD = load("fraud")
START, DAYS = date(2026, 1, 1), 45
TEST_START = START + timedelta(days=DAYS - 14)


def learned(raw: list[Path], root: Path) -> tuple[dict[str, torch.Tensor], bytes, np.ndarray]:
    """Weights, trees (a student's too) and test features after one epoch on everything before the test week."""
    facts = {"tables": {"events": {path.stem: str(path) for path in raw}}}
    facts |= {"first_day": raw[0].stem, "last_day": raw[-1].stem}
    feature_set = build_features(
        Manifest(kind="snapshot", id=root.name, workload="fraud", uri=str(root), facts=facts), root, history_length=16
    )
    spec = SplitSpec(test_start=TEST_START, delay_days=7, train_days=20, validation_days=3)
    rows = TrainingSet(assemble(feature_set, root, spec))
    model = read_config(FRAUD).model.model_dump() | {"sequence_length": 16, "bins": 8, "width": 32}
    config = read_config(FRAUD, epochs=1, batch_size=256, model=model)
    trainer = Trainer(rows, config, Process(0, 1, torch.device("cpu")))
    trainer.fit_preprocessing()
    trainer.epoch(0)
    trees = boosting.fit(trainer.average, rows, boosting.BoostConfig(rounds=5))
    small = student.StudentConfig(full=boosting.BoostConfig(rounds=5, depth=3))
    served = boosted.Trees(trees, 0.5)

    def teacher(*inputs: np.ndarray) -> np.ndarray:
        return torch_scores(trainer.average, inputs, served)

    learned = student.distil(student.lessons(trainer.average, rows, teacher, small), small.full)
    fitted = bytes(trees.booster.save_raw("ubj")) + bytes(learned.save_raw("ubj"))
    return trainer.average.state_dict(), fitted, rows.features[rows.rows_of("test")]


def poisoned(day: Path, folder: Path) -> Path:
    """The day with every label turned over and every amount thirty times as large."""
    table = pq.read_table(day)
    turned = pc.subtract(pa.scalar(1, pa.int8()), table["is_fraud"])
    amount = pc.multiply(table["amount"], pa.scalar(30, pa.decimal128(2, 0))).cast(table["amount"].type)
    table = table.set_column(table.column_names.index("is_fraud"), table.schema.field("is_fraud"), turned)
    table = table.set_column(table.column_names.index("amount"), table.schema.field("amount"), amount)
    pq.write_table(table, folder / day.name)
    return folder / day.name


def test_a_poisoned_test_week_leaves_the_weights_unchanged(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = simulator.SimulationConfig(customers=80, terminals=120, days=DAYS, radius=20.0, start=START, seed=1)
    raw = simulator.write(config, tmp_path / "raw")
    (tmp_path / "poison").mkdir()
    bad = [day if day.stem < str(TEST_START) else poisoned(day, tmp_path / "poison") for day in raw]

    honest_weights, honest_trees, honest_test = learned(raw, tmp_path / "honest")
    poison_weights, poison_trees, poison_test = learned(bad, tmp_path / "poisoned")

    assert not np.array_equal(honest_test, poison_test)
    assert honest_trees == poison_trees
    assert honest_weights.keys() == poison_weights.keys()
    assert all(torch.equal(honest_weights[name], poison_weights[name]) for name in honest_weights)
