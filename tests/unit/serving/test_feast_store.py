"""The transformer's Feast store: what one thread pushes, another sees whole or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from components.materialize.store import fill
from fraud.features import FEATURE_SERVICE, TERMINAL_STATE_FIELDS
from fraud.online import CustomerState, customer_states, push_columns
from millrace.errors import Unavailable
from millrace.lake.feast_home import online_database, repository
from millrace.workload import load
from serving.transformer.journal import Entry, Journal
from serving.transformer.pushed import Pushed
from serving.transformer.pusher import Pusher
from serving.transformer.state import Overlay
from serving.transformer.store import FeastStore
from serving.transformer.terminals import CachedTerminals

PUSHES = 25
CUSTOMERS = ["a", "b", "c", "d"]


def state(length: int) -> CustomerState:
    """A state that tells by every array which push wrote it."""
    numbers = np.arange(1, length + 1) * 1000 + length
    return CustomerState(numbers, numbers, numbers, numbers.astype(np.float32))


def sources_with(folder: Path, count: int) -> Path:
    """Two files of one row each, as materialize hands them to Feast."""
    pd.DataFrame(push_columns({"first": state(1)})).to_parquet(folder / "customer_state.parquet")
    terminal = {name: [count] for name in TERMINAL_STATE_FIELDS}
    now = pd.to_datetime(["2018-05-10"], utc=True)
    pd.DataFrame({"terminal_id": ["t"], "event_timestamp": now} | terminal).to_parquet(
        folder / "terminal_state.parquet"
    )
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    repository(home, "fraud").mkdir(parents=True)
    fill(home, load("fraud"), sources_with(tmp_path_factory.mktemp("sources"), count=0), "small")
    return home


def test_a_lookup_during_a_push_sees_whole_states_only(home):
    store, done = FeastStore(repository(home, "fraud")), threading.Event()

    def push() -> None:
        try:
            for length in range(1, PUSHES + 1):
                store.push(dict.fromkeys(CUSTOMERS, state(length)))
        finally:
            done.set()

    torn, lookups = [], 0
    with ThreadPoolExecutor(1) as thread:
        pushing = thread.submit(push)
        while not done.is_set():
            answer = store.read(CUSTOMERS, ["t"] * len(CUSTOMERS))
            lookups += 1
            columns = [answer[name] for name in ("transaction_ids", "event_us", "amount_cents", "terminal_risk")]
            torn += [row for row in zip(*columns, strict=True) if not all(values == row[0] for values in row)]
        pushing.result()

    assert lookups > 5
    assert torn == []
    assert [len(found) for found in store.read_customers(CUSTOMERS)] == [PUSHES] * len(CUSTOMERS)


def test_a_push_is_seen_by_the_next_lookup(home):
    store = FeastStore(repository(home, "fraud"))

    store.push({"seen": state(3)})

    (found,) = customer_states(store.read(["seen"], ["t"]))
    assert found.transaction_ids.tolist() == state(3).transaction_ids.tolist()


def test_rows_are_those_that_feast_gives_and_takes(home):
    store, feast = FeastStore(repository(home, "fraud")), FeatureStore(str(repository(home, "fraud")))
    pairs = {"customer_id": ["first", "nobody", "pushed"], "terminal_id": ["t", "nowhere", "t"]}
    feast.push("customer_state_push", pd.DataFrame(push_columns({"pushed": state(2)})))
    by_feast = feast.get_online_features(feast.get_feature_service(FEATURE_SERVICE), pairs).to_dict()

    assert store.read(*pairs.values()) | pairs == by_feast
    store.push({"pushed": state(2), "by us": state(3)})

    pairs["customer_id"][1] = "by us"
    by_feast = feast.get_online_features(feast.get_feature_service(FEATURE_SERVICE), pairs).to_dict()
    assert store.read(*pairs.values()) | pairs == by_feast
    assert [len(found) for found in customer_states(by_feast)] == [1, 3, 2]


def test_a_lookup_does_not_wait_for_an_unfinished_push(home):
    """The store is in WAL mode: readers go on beside a writer."""
    store = FeastStore(repository(home, "fraud"))
    with closing(sqlite3.connect(online_database(home, "fraud"), isolation_level=None)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.execute("BEGIN IMMEDIATE")

        answer = store.read(["first"], ["t"])

        other.execute("ROLLBACK")
    assert answer["transaction_ids"] == [[1001]]


def test_terminals_in_memory_give_what_the_store_gives_before_and_after_a_refill(home, tmp_path):
    store = FeastStore(repository(home, "fraud"))
    cached = CachedTerminals(store, 3600)
    pairs = (["first", "nobody", "first"], ["t", "t", "nowhere"])

    assert cached.read(*pairs) == cached.read(*pairs) == store.read(*pairs)
    fill(home, load("fraud"), sources_with(tmp_path, count=7), "another")
    assert cached.read(*pairs) == store.read(*pairs)
    assert cached.read(*pairs)["count_1d"] == [7, 7, None]


def test_a_store_that_was_never_filled_is_not_read_as_one_of_unknown_entities(home):
    store = FeastStore(repository(home, "fraud"))
    with closing(sqlite3.connect(online_database(home, "fraud"))) as other:
        other.execute("ALTER TABLE filled_with RENAME TO aside")
        try:
            for read in (store.read, CachedTerminals(store, 60).read):
                with pytest.raises(Unavailable, match="never filled"):
                    read(["first"], ["t"])
        finally:
            other.execute("ALTER TABLE aside RENAME TO filled_with")
    assert store.read(["first"], ["t"])["count_1d"] != [None]


def test_what_was_pushed_into_feast_is_there_again_after_a_refill(home, tmp_path):
    store, overlay, journal = FeastStore(repository(home, "fraud")), Overlay(4), Journal(tmp_path / "journal")
    pusher = Pusher(store, overlay, journal, Pushed(tmp_path / "pushed", tmp_path))
    scored = [Entry(number, "refilled", number, 100, 0.5) for number in (1, 2)]
    journal.append(scored)
    overlay.add(scored)
    asyncio.run(pusher.push())

    fill(home, load("fraud"), sources_with(tmp_path, count=1), "refilled")
    assert len(store.read_customers(["refilled"])[0]) == 0
    asyncio.run(pusher.push())

    assert store.read_customers(["refilled"])[0].transaction_ids.tolist() == [1, 2]
    journal.close()
