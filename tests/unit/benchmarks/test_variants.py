"""Int8 of all products: a graph that runs, at any number of rows, and says about the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.variants import PRODUCTS, dynamic, flattened
from components.optimise import export
from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS
from fraud.model import Architecture, FraudModel
from millrace.registry.model_artifact import load_graph


@pytest.mark.parametrize("embedding", [0, 3])
def test_every_product_becomes_int8_but_those_of_a_matrix_for_each_column(tmp_path: Path, embedding: int) -> None:
    torch.manual_seed(0)
    sizes = {"sequence_length": 8, "attended": 8, "bins": 4, "width": 16, "blocks": 1, "members": 1}
    architecture = Architecture(**sizes, embedding=embedding, history_width=8, heads=4, dropout=0.1)
    model = FraudModel(architecture, FEATURE_NAMES).eval()
    features, history = torch.rand(200, len(FEATURE_NAMES)) * 50, torch.rand(200, 8, len(HISTORY_CHANNELS))
    model.fit_preprocessing((features, history), (features[:, 0] > 40).float(), np.arange(100) < 10)
    rows = features.numpy(), history.numpy()
    export.export_class(model, rows, tmp_path / "model.onnx")
    flat = flattened(tmp_path / "model.onnx", tmp_path / "flat.onnx")

    dynamic(flat, tmp_path / "dynamic.onnx")
    export.quantise(flat, rows, tmp_path / "static.onnx", PRODUCTS)

    wanted = export.torch_scores(model, rows)
    for name in ("dynamic", "static"):
        graph = load_graph(tmp_path / f"{name}.onnx")
        for count in (1, 200):
            (scores,) = graph.run(["score"], {"features": rows[0][:count], "history": rows[1][:count]})
            np.testing.assert_allclose(scores, wanted[:count], atol=0.05)
    assert bool(export.stacked(flat)) == bool(embedding)
