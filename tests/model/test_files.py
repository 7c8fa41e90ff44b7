"""A model as files: what is saved is what is loaded, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS
from fraud.model import FraudModel, ModelSpec, load_model, save_model
from millrace.errors import ArtifactCorrupt, ConfigError, NotFound

SPEC = ModelSpec(sequence_length=4, bins=5, embedding=3, width=16, blocks=1, members=2, history_width=8, heads=2)


def rows(count: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = 100 * torch.rand(count, len(FEATURE_NAMES), generator=generator)
    history = torch.rand(count, 4, len(HISTORY_CHANNELS), generator=generator).round(decimals=1)
    return features, history, (torch.arange(count) % 4 == 0).long()


def fitted() -> FraudModel:
    torch.manual_seed(0)
    model = FraudModel(SPEC)
    features, history, label = rows()
    model.fit_preprocessing(features, history, label, 0.25)
    return model.eval()


def test_a_loaded_model_gives_the_same_logits(tmp_path: Path) -> None:
    model = fitted()
    features, history, _ = rows()

    save_model(model, tmp_path, name="x", seeds={"seed": 1})

    loaded = load_model(tmp_path)
    assert loaded.spec == SPEC
    assert not loaded.training
    torch.testing.assert_close(loaded(features, history), model(features, history), rtol=0, atol=0)
    assert json.loads((tmp_path / "model.json").read_text())["seeds"] == {"seed": 1}


def test_a_model_from_before_columns_had_embeddings_loads_without_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FraudModel(ModelSpec.from_dict(SPEC.to_dict() | {"embedding": 0})).eval()
    features, history, label = rows()
    model.fit_preprocessing(features, history, label, 0.25)
    save_model(model, tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    del content["parameters"]["embedding"]
    (tmp_path / "model.json").write_text(json.dumps(content))

    loaded = load_model(tmp_path)

    assert loaded.spec.embedding == 0
    torch.testing.assert_close(loaded(features, history), model(features, history), rtol=0, atol=0)


def test_logits_are_one_per_row_and_the_mean_of_the_members(tmp_path: Path) -> None:
    model = fitted()
    features, history, _ = rows(7)

    logits = model(features, history)

    assert logits.shape == (7,)
    torch.testing.assert_close(logits, model.member_logits(features, history).mean(dim=0))


def test_the_prior_is_that_of_the_training_rows() -> None:
    features, history, label = rows()
    model = fitted()
    with torch.no_grad():
        model.head[-1].weight.zero_()

    rate = torch.sigmoid(model(features, history)).mean()

    torch.testing.assert_close(rate, label.float().mean())


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_a_constant_feature_is_no_trouble(constant: float) -> None:
    features, history, label = rows()
    features[:, 3] = constant
    model = FraudModel(SPEC)

    model.fit_preprocessing(features, history, label, 0.25)

    assert torch.isfinite(model(features, history)).all()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"model\.json"):
        load_model(tmp_path)

    save_model(fitted(), tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(NotFound, match=r"weights\.safetensors"):
        load_model(tmp_path)


def test_weights_of_another_shape_or_half_a_file_are_refused(tmp_path: Path) -> None:
    save_model(fitted(), tmp_path / "one")
    save_model(FraudModel(ModelSpec(sequence_length=4, width=8)), tmp_path / "two")
    weights = tmp_path / "one" / "weights.safetensors"

    weights.write_bytes((tmp_path / "two" / "weights.safetensors").read_bytes())
    with pytest.raises(ArtifactCorrupt, match="one whole model"):
        load_model(tmp_path / "one")

    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ArtifactCorrupt, match="one whole model"):
        load_model(tmp_path / "one")


def test_a_spec_survives_json_and_unknown_keys_do_not() -> None:
    assert ModelSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC

    with pytest.raises(ConfigError, match="depth"):
        ModelSpec.from_dict(SPEC.to_dict() | {"depth": 3})


@pytest.mark.parametrize(
    "wrong", [{"heads": 3}, {"width": 0}, {"dropout": 1.0}, {"blocks": -1}, {"members": 0}, {"embedding": -1}]
)
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        ModelSpec(**wrong)
