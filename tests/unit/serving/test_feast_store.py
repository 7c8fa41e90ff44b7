"""The transformer's Feast store: what one thread pushes, another sees whole or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from components.materialize.store import fill
from fraud.features import FEATURE_SERVICE, VIEWS
from fraud.formulas import TERMINAL_STATE_FIELDS
from millrace.errors import Unavailable
from millrace.inputs import RecentEvents, States, recent
from millrace.installed import load
from millrace.lake.feast_home import online_database, repository
from millrace.lookup import columns_of, recent_of, states_of
from serving.transformer.journal import Entry, Journal
from serving.transformer.pushed import Pushed
from serving.transformer.pusher import Pusher
from serving.transformer.refreshed import RefreshedCache
from serving.transformer.state import Overlay
from serving.transformer.store import FeastStore, Store

CUSTOMERS, TERMINALS = VIEWS
PUSHES = 25
NAMES = ["a", "b", "c", "d"]


def state(length: int) -> RecentEvents:
    """A state that tells by every array which push wrote it."""
    numbers = np.arange(1, length + 1) * 1000 + length
    return recent(numbers, numbers, numbers, numbers.astype(np.float32))


def look(store: Store, customers: Sequence[str], terminals: Sequence[str]) -> States:
    return store.read({"customer": customers, "terminal": terminals})


def assert_same(got: States, wanted: States) -> None:
    np.testing.assert_array_equal(got.refreshed[TERMINALS.name], wanted.refreshed[TERMINALS.name])
    for one, other in zip(got.recent[CUSTOMERS.name], wanted.recent[CUSTOMERS.name], strict=True):
        for values, those in zip(one.arrays(), other.arrays(), strict=True):
            np.testing.assert_array_equal(values, those)


def sources_with(folder: Path, count: int) -> Path:
    """Two files of one row each, as materialize hands them to Feast."""
    pd.DataFrame(columns_of({"first": state(1)}, CUSTOMERS, "customer_id")).to_parquet(
        folder / "customer_state.parquet"
    )
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
    store, done = FeastStore(repository(home, "fraud"), load("fraud")), threading.Event()

    def push() -> None:
        try:
            for length in range(1, PUSHES + 1):
                store.push(dict.fromkeys(NAMES, state(length)))
        finally:
            done.set()

    torn, lookups = [], 0
    with ThreadPoolExecutor(1) as thread:
        pushing = thread.submit(push)
        while not done.is_set():
            found = look(store, NAMES, ["t"] * len(NAMES)).recent[CUSTOMERS.name]
            lookups += 1
            rows = [[values.tolist() for values in one.arrays()] for one in found]
            torn += [row for row in rows if not all(values == row[0] for values in row)]
        pushing.result()

    assert lookups > 5
    assert torn == []
    assert [len(found) for found in store.read_pushed(NAMES)] == [PUSHES] * len(NAMES)


def test_a_push_is_seen_by_the_next_lookup(home):
    store = FeastStore(repository(home, "fraud"), load("fraud"))

    store.push({"seen": state(3)})

    (found,) = look(store, ["seen"], ["t"]).recent[CUSTOMERS.name]
    assert found.event_ids.tolist() == state(3).event_ids.tolist()


def test_rows_are_those_that_feast_gives_and_takes(home):
    store, feast = FeastStore(repository(home, "fraud"), load("fraud")), FeatureStore(str(repository(home, "fraud")))
    pairs = {"customer_id": ["first", "nobody", "pushed"], "terminal_id": ["t", "nowhere", "t"]}
    feast.push("customer_state_push", pd.DataFrame(columns_of({"pushed": state(2)}, CUSTOMERS, "customer_id")))
    by_feast = feast.get_online_features(feast.get_feature_service(FEATURE_SERVICE), pairs).to_dict()

    assert_same(look(store, *pairs.values()), states_of(by_feast, VIEWS))
    store.push({"pushed": state(2), "by us": state(3)})

    pairs["customer_id"][1] = "by us"
    by_feast = feast.get_online_features(feast.get_feature_service(FEATURE_SERVICE), pairs).to_dict()
    assert_same(look(store, *pairs.values()), states_of(by_feast, VIEWS))
    assert [len(found) for found in recent_of(by_feast, CUSTOMERS)] == [1, 3, 2]


def test_a_lookup_does_not_wait_for_an_unfinished_push(home):
    """The store is in WAL mode: readers go on beside a writer."""
    store = FeastStore(repository(home, "fraud"), load("fraud"))
    with closing(sqlite3.connect(online_database(home, "fraud"), isolation_level=None)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.execute("BEGIN IMMEDIATE")

        answer = look(store, ["first"], ["t"])

        other.execute("ROLLBACK")
    assert answer.recent[CUSTOMERS.name][0].event_ids.tolist() == [1001]


def test_terminals_in_memory_give_what_the_store_gives_before_and_after_a_refill(home, tmp_path):
    store = FeastStore(repository(home, "fraud"), load("fraud"))
    cached = RefreshedCache(store, load("fraud"), 3600)
    pairs = (["first", "nobody", "first"], ["t", "t", "nowhere"])

    for _ in range(2):
        assert_same(look(cached, *pairs), look(store, *pairs))
    fill(home, load("fraud"), sources_with(tmp_path, count=7), "another")
    assert_same(look(cached, *pairs), look(store, *pairs))
    assert look(cached, *pairs).refreshed[TERMINALS.name][:, 0].tolist() == [7, 7, 0]


def test_a_store_that_was_never_filled_is_not_read_as_one_of_unknown_entities(home):
    store = FeastStore(repository(home, "fraud"), load("fraud"))
    with closing(sqlite3.connect(online_database(home, "fraud"))) as other:
        other.execute("ALTER TABLE filled_with RENAME TO aside")
        try:
            for asked in (store, RefreshedCache(store, load("fraud"), 60)):
                with pytest.raises(Unavailable, match="never filled"):
                    look(asked, ["first"], ["t"])
        finally:
            other.execute("ALTER TABLE aside RENAME TO filled_with")
    assert look(store, ["first"], ["t"]).refreshed[TERMINALS.name].any()


def test_what_was_pushed_into_feast_is_there_again_after_a_refill(home, tmp_path):
    store, overlay, journal = (
        FeastStore(repository(home, "fraud"), load("fraud")),
        Overlay(4),
        Journal(tmp_path / "journal"),
    )
    pusher = Pusher(store, overlay, journal, Pushed(tmp_path / "pushed", tmp_path))
    scored = [Entry(number, "refilled", number, (100, 0.5)) for number in (1, 2)]
    journal.append(scored)
    overlay.add(scored)
    asyncio.run(pusher.push())

    fill(home, load("fraud"), sources_with(tmp_path, count=1), "refilled")
    assert len(store.read_pushed(["refilled"])[0]) == 0
    asyncio.run(pusher.push())

    assert store.read_pushed(["refilled"])[0].event_ids.tolist() == [1, 2]
    journal.close()
