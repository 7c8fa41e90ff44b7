"""Our point-in-time assembly and Feast's give the same model inputs: docs/adr/0004 rests on this."""

from __future__ import annotations

import runpy
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import feature_repo
from components.assemble.core import assemble
from components.assemble.splits import SplitSpec
from components.build_features.core import build_features
from fraud import simulator
from fraud.features import FEATURE_NAMES, TERMINAL_FEATURES
from fraud.formulas import (
    CUSTOMER_STATE_FIELDS,
    TERMINAL_STATE_FIELDS,
    CustomerStates,
    history_tensor,
    terminal_features,
)
from millrace.installed import load
from millrace.instants import NEVER_US
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet

if TYPE_CHECKING:
    from feast import FeatureStore

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

START = date(2026, 1, 1)
DAYS = 50
LENGTH = 16
SAMPLE = 400


@pytest.fixture(scope="module")
def feature_set(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Fifty days of a small simulated world; several transactions of a customer at one instant are left out."""
    root = tmp_path_factory.mktemp("world")
    config = simulator.SimulationConfig(customers=60, terminals=120, days=DAYS, radius=20.0, start=START, seed=3)
    tables = {}
    for path in simulator.write(config, root / "raw"):
        rows = pq.read_table(path)
        frame = rows.select(["customer_id", "event_timestamp"]).to_pandas()
        pq.write_table(rows.filter(pa.array(~frame.duplicated().to_numpy())), path)
        tables[path.stem] = str(path)
    facts = {"tables": {"events": tables}, "first_day": str(START), "last_day": max(tables)}
    snapshot = Manifest(kind="snapshot", id="world", workload="fraud", uri=str(root), facts=facts)
    return build_features(snapshot, root / "lake", history_length=LENGTH)


@pytest.fixture(scope="module")
def training_set(feature_set: Manifest, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    spec = SplitSpec(test_start=START + timedelta(days=DAYS - 14), delay_days=7, train_days=20, validation_days=4)
    return TrainingSet(assemble(feature_set, tmp_path_factory.mktemp("lake"), spec))


@pytest.fixture(scope="module")
def sample(training_set: TrainingSet) -> np.ndarray:
    return np.sort(np.random.default_rng(0).choice(len(training_set), SAMPLE, replace=False))


@pytest.fixture(scope="module")
def joined(
    feature_set: Manifest, training_set: TrainingSet, sample: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> pd.DataFrame:
    """Feast's historical features of the sampled rows.

    A history ends strictly before its transaction, and Feast joins at or before: hence one microsecond less.
    """
    home = tmp_path_factory.mktemp("home")
    sources = home / "sources"
    sources.mkdir(parents=True)
    pq.write_table(
        pa.concat_tables(map(pq.read_table, feature_set.table("terminal_state"))), sources / "terminal_state.parquet"
    )
    pq.write_table(customer_states(feature_set), sources / "customer_state.parquet")
    store = feast_over(home)
    names = ["transaction_id", "customer_id", "terminal_id", "event_timestamp"]
    entities = training_set.table(names).take(pa.array(sample)).to_pandas()
    entities["event_timestamp"] -= pd.Timedelta(microseconds=1)
    views = [f"terminal_state:{name}" for name in TERMINAL_STATE_FIELDS]
    views += [f"customer_state:{name}" for name in CUSTOMER_STATE_FIELDS]
    found = store.get_historical_features(entity_df=entities, features=views).to_df()
    return found.sort_values("transaction_id").reset_index(drop=True)


def feast_over(home: Path) -> FeatureStore:
    """The definitions of `feature_repo` with DuckDB as the offline store, as `materialize` applies them."""
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    config = RepoConfig(
        project="contract",
        provider="local",
        registry=str(home / "registry.db"),
        offline_store={"type": "duckdb"},
        online_store={"type": "sqlite", "path": str(home / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    define = runpy.run_path(str(Path(feature_repo.__file__).with_name("definitions.py")))["define"]
    store.apply(define(load("fraud"), home))
    return store


def customer_states(feature_set: Manifest) -> pa.Table:
    """The state that each transaction left behind, one row per transaction, by a plain loop."""
    rows = pa.concat_tables(map(pq.read_table, feature_set.table("events"))).to_pandas()
    event_us = rows["event_timestamp"].astype("datetime64[us, UTC]").astype("int64")
    values = rows.assign(transaction_ids=rows["transaction_id"], event_us=event_us)
    past: dict[str, list[tuple[object, ...]]] = {}
    states = []
    for customer, stamp, *fields in values[["customer_id", "event_timestamp", *CUSTOMER_STATE_FIELDS]].itertuples(
        index=False
    ):
        history = past.setdefault(customer, [])
        history.append(tuple(fields))
        columns = [list(column) for column in zip(*history[-LENGTH:], strict=True)]
        states.append((customer, stamp, *columns))
    names = ["customer_id", "event_timestamp", *CUSTOMER_STATE_FIELDS]
    columns = dict(zip(names, zip(*states, strict=True), strict=True))
    types = {name: pa.list_(pa.float32() if name == "terminal_risk" else pa.int64()) for name in CUSTOMER_STATE_FIELDS}
    types |= {"event_timestamp": pa.timestamp("us", tz="UTC"), "customer_id": pa.string()}
    return pa.table({name: pa.array(list(column), types[name]) for name, column in columns.items()})


def test_terminal_features_equal_those_from_feasts_point_in_time_join(
    training_set: TrainingSet, sample: np.ndarray, joined: pd.DataFrame
) -> None:
    ids = training_set.table(["transaction_id"])["transaction_id"].to_numpy()[sample]
    ours = training_set.features[sample][np.argsort(ids)][:, FEATURE_NAMES.index(TERMINAL_FEATURES[0]) :]

    state = joined[list(TERMINAL_STATE_FIELDS)].fillna(0).to_numpy(np.int64)
    theirs = terminal_features(training_set.event_us[sample][np.argsort(ids)], state)

    np.testing.assert_array_equal(ours, theirs)
    assert (theirs > 0).any(axis=0).all()  # no column is equal for being empty


def test_histories_equal_those_from_feasts_point_in_time_join(
    training_set: TrainingSet, sample: np.ndarray, joined: pd.DataFrame
) -> None:
    ids = training_set.table(["transaction_id"])["transaction_id"].to_numpy()[sample]
    rows = sample[np.argsort(ids)]
    _, ours = training_set.batch(rows, LENGTH)

    theirs = history_tensor(training_set.event_us[rows], padded(joined), LENGTH)

    np.testing.assert_array_equal(ours, theirs)
    assert 0 < ours[:, :, 3].mean() < 1  # some histories are full, some are not


def padded(joined: pd.DataFrame) -> CustomerStates:
    """Feast's ragged arrays, padded on the left."""
    length = np.array([0 if value is None else len(value) for value in joined["event_us"]])
    event_us = np.full((len(joined), LENGTH), NEVER_US)
    cents = np.zeros((len(joined), LENGTH), np.int64)
    risk = np.zeros((len(joined), LENGTH), np.float32)
    for row, count in enumerate(length):
        if count:
            event_us[row, -count:] = joined["event_us"][row]
            cents[row, -count:] = joined["amount_cents"][row]
            risk[row, -count:] = joined["terminal_risk"][row]
    return CustomerStates(event_us, cents, risk, length)
