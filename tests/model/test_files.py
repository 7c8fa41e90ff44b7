"""A model as files: what is saved is what is loaded, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS
from fraud.model import Architecture, FraudModel
from millrace.errors import ArtifactCorrupt, NotFound
from millrace.installed import load
from millrace.tabular.weights import load_network, save_network

SIZES = Architecture(
    sequence_length=4,
    attended=4,
    bins=5,
    embedding=3,
    width=16,
    blocks=1,
    members=2,
    history_width=8,
    heads=2,
    dropout=0.1,
)


def rows(count: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = 100 * torch.rand(count, len(FEATURE_NAMES), generator=generator)
    history = torch.rand(count, 4, len(HISTORY_CHANNELS), generator=generator).round(decimals=1)
    return features, history, (torch.arange(count) % 4 == 0).long()


def fitted() -> FraudModel:
    torch.manual_seed(0)
    model = FraudModel(SIZES, FEATURE_NAMES)
    features, history, label = rows()
    model.fit_preprocessing((features, history), label, label.numpy())
    return model.eval()


def test_a_loaded_model_gives_the_same_logits(tmp_path: Path) -> None:
    model = fitted()
    features, history, _ = rows()

    save_network(model, load("fraud"), tmp_path, name="x", seeds={"seed": 1})

    loaded = load_network(tmp_path)
    assert loaded.architecture == SIZES
    assert not loaded.training
    torch.testing.assert_close(loaded(features, history), model(features, history), rtol=0, atol=0)
    assert json.loads((tmp_path / "model.json").read_text())["seeds"] == {"seed": 1}


def test_logits_are_one_per_row_and_the_mean_of_the_members(tmp_path: Path) -> None:
    model = fitted()
    features, history, _ = rows(7)

    logits = model(features, history)

    assert logits.shape == (7,)
    torch.testing.assert_close(logits, model.member_outputs(features, history).mean(dim=0))


def test_the_prior_is_that_of_the_training_rows() -> None:
    features, history, label = rows()
    model = fitted()
    with torch.no_grad():
        model.tower.head[-1].weight.zero_()

    rate = torch.sigmoid(model(features, history)).mean()

    torch.testing.assert_close(rate, label.float().mean())


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_a_constant_feature_is_no_trouble(constant: float) -> None:
    features, history, label = rows()
    features[:, 3] = constant
    model = FraudModel(SIZES, FEATURE_NAMES)

    model.fit_preprocessing((features, history), label, label.numpy())

    assert torch.isfinite(model(features, history)).all()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"model\.json"):
        load_network(tmp_path)

    save_network(fitted(), load("fraud"), tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(NotFound, match=r"weights\.safetensors"):
        load_network(tmp_path)


def test_weights_of_another_shape_or_half_a_file_are_refused(tmp_path: Path) -> None:
    save_network(fitted(), load("fraud"), tmp_path / "one")
    other = FraudModel(SIZES.model_copy(update={"width": 8}), FEATURE_NAMES)
    save_network(other, load("fraud"), tmp_path / "two")
    weights = tmp_path / "one" / "weights.safetensors"

    weights.write_bytes((tmp_path / "two" / "weights.safetensors").read_bytes())
    with pytest.raises(ArtifactCorrupt, match="one whole model"):
        load_network(tmp_path / "one")

    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ArtifactCorrupt, match="one whole model"):
        load_network(tmp_path / "one")
