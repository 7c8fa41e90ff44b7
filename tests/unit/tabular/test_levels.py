"""Categories in a network: fitted on training rows, the same in torch and in the graph, and they carry their signal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from components.optimise.export import export_class
from millrace.tabular.architecture import Architecture
from millrace.tabular.boosting import BoostConfig, columns_of, fit
from millrace.tabular.levels import COLUMNS, LEVELS, MIN_ROWS, SLOTS, fitted, with_levels
from millrace.tabular.plain import PlainClassNetwork
from millrace.variants.columns import code_of

SIZES = Architecture(bins=4, embedding=2, width=8, blocks=1, members=1, dropout=0.0)
NAMES = ("size", "shop_code")


def network(rows: int = 400, seed: int = 0) -> tuple[object, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    code = rng.choice([0.0, 7.0, 8.0, 9.0], rows)
    label = ((code == 8.0) | (rng.random(rows) < 0.1)).astype(np.float32)
    features = torch.from_numpy(np.stack([rng.normal(size=rows), code], axis=1).astype(np.float32))
    torch.manual_seed(0)
    made = with_levels(PlainClassNetwork, SIZES, NAMES, ["shop_code"])
    made.fit_preprocessing([features], torch.from_numpy(label), label)
    return made.eval(), features, label


def test_a_code_becomes_a_slot_other_none_and_the_mean_of_its_level() -> None:
    made, _, label = network()
    rows = torch.tensor([[1.0, 8.0], [1.0, 0.0], [1.0, 99.0]])

    columns = made.columns(rows)  # type: ignore[attr-defined]

    assert columns.shape == (3, 2 + COLUMNS)
    assert columns[:, 1].tolist() == [0.0, 0.0, 0.0]  # a code is no number
    slots, other, none, mean = columns[:, 2 : 2 + SLOTS], columns[:, -3], columns[:, -2], columns[:, -1]
    assert slots.sum(dim=1).tolist() == [1.0, 0.0, 0.0]
    assert none.tolist() == [0.0, 1.0, 0.0]
    assert other.tolist() == [0.0, 0.0, 1.0]
    assert mean[0] > label.mean() > mean[1]


def test_levels_of_few_rows_are_other_and_the_most_frequent_come_first() -> None:
    codes = np.repeat([5.0, 6.0, 0.0, 4.0], [MIN_ROWS, 3 * MIN_ROWS, 500, MIN_ROWS - 1]).astype(np.float32)

    levels, means = fitted(codes, np.zeros(len(codes), np.float32), np.ones(len(codes)))

    assert levels[:2].tolist() == [6.0, 5.0]
    assert set(levels[2:].tolist()) == {-1.0}
    assert len(means) == LEVELS + 1


def test_each_class_weighs_as_many_training_rows_as_it_stands_for() -> None:
    codes = np.repeat([5.0, 6.0], [100, 100]).astype(np.float32)
    label = np.tile([1.0, 0.0], 100).astype(np.float32)

    _, plain = fitted(codes, label, np.ones(200))
    _, rare = fitted(codes, label, np.where(label == 1, 1.0, 99.0))

    assert plain[0] == np.float32(0.5)
    assert abs(rare[0] - 0.01) < 1e-6


def test_the_graph_gives_what_torch_gives_for_seen_unseen_and_absent_levels(tmp_path: Path) -> None:
    made, features, _ = network()
    rows = torch.cat([features[:50], torch.tensor([[0.3, 12345.0], [0.3, 0.0]])])
    export_class(made, (rows.numpy(),), tmp_path / "model.onnx")  # type: ignore[arg-type]

    (scores,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["score"], {"features": rows.numpy()})

    with torch.no_grad():
        wanted = torch.sigmoid(made(rows)).numpy()  # type: ignore[operator]
    np.testing.assert_allclose(scores, wanted, atol=1e-6)


def test_an_unseen_level_is_scored_as_another_unseen_one() -> None:
    made, _, _ = network()

    with torch.no_grad():
        one, other = made(torch.tensor([[0.3, 12345.0], [0.3, 54321.0]])).tolist()  # type: ignore[operator]

    assert one == other


def test_what_was_fitted_travels_with_the_weights() -> None:
    made, features, _ = network()
    again = with_levels(PlainClassNetwork, SIZES, NAMES, ["shop_code"])

    again.load_state_dict(made.state_dict())  # type: ignore[attr-defined]

    torch.testing.assert_close(again.eval().columns(features), made.columns(features))  # type: ignore[attr-defined]


@dataclass
class Planted:
    """Rows of which the label follows a level, and not the number beside it."""

    features: np.ndarray
    label: np.ndarray
    workload: object = None

    @classmethod
    def of(cls, rows: int, seed: int) -> Planted:
        rng = np.random.default_rng(seed)
        level = rng.choice([f"level {number}" for number in range(40)], rows)
        risky = np.isin(level, ["level 3", "level 17", "level 31"])
        label = (rng.random(rows) < np.where(risky, 0.5, 0.02)).astype(np.int8)
        code = np.array([code_of(one) for one in level])
        return cls(np.stack([rng.normal(size=rows), code], axis=1).astype(np.float32), label)

    def rows_of(self, split: str) -> np.ndarray:
        return np.arange(len(self.label)) if split == "train" else np.empty(0, np.int64)

    def batch(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, None]:
        return self.features[rows], None


def test_a_signal_planted_in_a_category_raises_average_precision_clearly() -> None:
    seen, held_out = Planted.of(6000, 1), Planted.of(3000, 2)
    label = seen.label.astype(np.float32)
    inputs = [torch.from_numpy(seen.features)]
    figures = {}

    for name, made in {
        "with": with_levels(PlainClassNetwork, SIZES, NAMES, ["shop_code"]),
        "without": PlainClassNetwork(SIZES, NAMES[:1]),
    }.items():
        width = len(made.feature_names)
        made.fit_preprocessing([inputs[0][:, :width]], torch.from_numpy(label), label)
        learned, judged = (Planted(of.features[:, :width].copy(), of.label) for of in (seen, held_out))
        trees = fit(made.eval(), learned, BoostConfig(rounds=40))  # type: ignore[arg-type]
        scores = trees.margins(columns_of(made, judged, np.arange(len(judged.label))))  # type: ignore[arg-type]
        figures[name] = PlainClassNetwork.figure(judged.label, scores.astype(np.float64))

    assert figures["with"] > figures["without"] + 0.25
