"""A small training set and a small trained model, written as `assemble` and `train` write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS
from fraud.model import Architecture, FraudModel
from millrace.installed import load
from millrace.instants import DAY_US
from millrace.lake.manifest import Manifest, hash_files
from millrace.tabular.weights import save_network

LENGTH = 8
DAYS = 6
FIRST_DAY_US = 17_700 * DAY_US


def write_training_set(folder: Path, customers: int = 30, per_customer: int = 20, validation: bool = True) -> Manifest:
    """Uniform customers over six days, the last two of them validation; fraud where the amount is large."""
    rng = np.random.default_rng(0)
    rows = customers * per_customer
    folder.mkdir(parents=True)
    customer = np.repeat(np.arange(customers), per_customer)
    event_us = FIRST_DAY_US + np.sort(rng.integers(0, DAYS * DAY_US, (customers, per_customer)), axis=1).ravel()
    cents = rng.integers(100, 30_000, rows)
    label = (cents > 25_000).astype(np.int8)
    features = rng.random((rows, len(FEATURE_NAMES)), dtype=np.float32)
    features[:, 0] = cents / 100
    day = (event_us - FIRST_DAY_US) // DAY_US
    split = np.where(day >= 4, 1, 0).astype(np.int8) if validation else np.zeros(rows, np.int8)
    order = np.argsort(event_us, kind="stable")
    arrays = {
        "event_us": event_us[order],
        "pool_event_us": event_us,
        "pool_amount_cents": cents,
        "pool_terminal_risk": rng.random(rows, dtype=np.float32),
        "row_position": np.arange(rows)[order],
        "row_start": (customer * per_customer)[order],
        "features": features[order],
        "label": label[order],
        "split": split[order],
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    moments = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(us)) for us in event_us[order]]
    table = {
        "transaction_id": pa.array(np.arange(rows)),
        "event_timestamp": pa.array(moments, pa.timestamp("us", tz="UTC")),
        "customer_id": pa.array([f"c{number}" for number in customer[order]]),
        "terminal_id": pa.array(["t"] * rows),
        "amount_cents": pa.array(cents[order]),
        "is_fraud": pa.array(label[order]),
        "label_timestamp": pa.array([m + timedelta(days=7) for m in moments], pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(table), folder / "rows.parquet")
    facts = {"history_length": 16}
    files = hash_files(folder)
    return Manifest(
        kind="training_set", id="t" * 16, workload="fraud", uri=str(folder), files=files, facts=facts
    ).write()


def write_trained_model(folder: Path) -> Manifest:
    """An untrained `FraudModel`, its scales fitted, in the folder that `train` would write."""
    torch.manual_seed(0)
    model = FraudModel(
        Architecture(
            sequence_length=LENGTH,
            attended=LENGTH,
            bins=4,
            embedding=3,
            width=16,
            blocks=1,
            members=4,
            history_width=8,
            heads=2,
            dropout=0.1,
        ),
        FEATURE_NAMES,
    )
    features = torch.rand(500, len(FEATURE_NAMES))
    features[:, 0] *= 300
    history = torch.rand(500, LENGTH, len(HISTORY_CHANNELS))
    label = (features[:, 0] > 250).float()
    model.fit_preprocessing((features, history), label, np.arange(100) < 10)
    save_network(
        model,
        load("fraud"),
        folder,
        name="fraud-detector",
        history_length=16,
        seeds={"torch": 0},
        note="kept",
    )
    (folder / "training_curve.json").write_text("[]\n")
    parents = {"training_set": "t" * 16, "snapshot": "s" * 16}
    return Manifest(
        kind="model", id="m" * 16, workload="fraud", uri=str(folder), parents=parents, files=hash_files(folder)
    ).write()


@pytest.fixture(scope="session")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_training_set(tmp_path_factory.mktemp("data") / "training_set")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_trained_model(tmp_path_factory.mktemp("data") / "trained")
