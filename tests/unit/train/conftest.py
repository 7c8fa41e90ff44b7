"""A small training set written by hand: fraud follows from the amount, the terminal's risk and the last transaction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from components.train.core import AnyTrainConfig, read_config
from fraud.features import FEATURE_NAMES, FEATURE_SERVICE
from millrace.installed import load
from millrace.instants import DAY_US
from millrace.lake.manifest import Manifest, content_id, hash_files

HISTORY = 8
SMALL_MODEL = {
    "sequence_length": 8,
    "bins": 6,
    "width": 16,
    "blocks": 1,
    "members": 2,
    "history_width": 8,
    "heads": 2,
    "dropout": 0.1,
}


def write_training_set(folder: Path, rows: int = 2_000, fraud_share: float = 0.1, seed: int = 0) -> Manifest:
    """Every transaction of 50 customers is a row; 3/4 train, the rest is split between validation and test."""
    rng = np.random.default_rng(seed)
    customer = np.sort(rng.integers(0, 50, rows))
    start = np.searchsorted(customer, customer)
    features = rng.random((rows, len(FEATURE_NAMES)), np.float32)
    features[:, FEATURE_NAMES.index("amount")] = rng.gamma(2.0, 30.0, rows)
    cents = np.round(features[:, FEATURE_NAMES.index("amount")] * 100).astype(np.int64)
    risk = features[:, FEATURE_NAMES.index("terminal_risk_30d")]
    signal = cents / 6_000 + 3 * risk + rng.normal(0, 0.3, rows)
    label = (signal > np.quantile(signal, 1 - fraud_share)).astype(np.int8) if fraud_share else np.zeros(rows, np.int8)
    arrays = {
        "event_us": np.arange(rows) * DAY_US // 100,
        "pool_event_us": np.arange(rows) * DAY_US // 100,
        "pool_amount_cents": cents,
        "pool_terminal_risk": risk,
        "row_position": np.arange(rows),
        "row_start": start,
        "features": features,
        "label": label,
        "split": rng.choice(3, rows, p=(0.75, 0.15, 0.1)).astype(np.int8),
    }
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    split = {
        name: {"rows": int((arrays["split"] == i).sum())} for i, name in enumerate(("train", "validation", "test"))
    }
    files = hash_files(folder)
    facts = {"history_length": HISTORY, "feature_service": FEATURE_SERVICE, "splits": split}
    parents = {"feature_set": "f" * 16, "snapshot": "s" * 16}
    return Manifest(
        kind="training_set",
        id=content_id(files),
        workload="fraud",
        uri=str(folder),
        files=files,
        facts=facts,
        parents=parents,
    ).write()


def small_config(**changes: object) -> AnyTrainConfig:
    return read_config(load("fraud"), **{"epochs": 4, "batch_size": 256, "model": SMALL_MODEL, "seed": 1} | changes)


@pytest.fixture
def training_set(tmp_path: Path) -> Manifest:
    return write_training_set(tmp_path / "lake" / "training_sets" / "made")


@pytest.fixture(name="small_config", scope="session")
def small_config_fixture() -> Callable[..., AnyTrainConfig]:
    """small_config(**changes) → a configuration that trains in a second."""
    return small_config


@pytest.fixture(scope="session")
def made_set() -> Callable[..., Manifest]:
    """made_set(folder, rows, fraud_share, seed) → a training set in `folder`."""
    return write_training_set


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """As in production; more threads wait for each other on matrices this small."""
    torch.set_num_threads(1)
