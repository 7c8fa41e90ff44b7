"""The transformer's Feast store: what one thread pushes, another sees whole or not at all."""

from __future__ import annotations

import sqlite3
import threading
import time
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
from millrace.appended.records import Entry, Records
from millrace.appended.sqlite import FILE, SQLiteEvents
from millrace.errors import NotFound, Unavailable
from millrace.inputs import RecentEvents, States, recent
from millrace.installed import load
from millrace.lake.feast_home import DATABASE, EARLIEST_US, Fill, repository, workload_folder
from millrace.lookup import columns_of, recent_of, states_of
from serving.transformer.embedded import EmbeddedStore
from serving.transformer.refreshed import RefreshedCache
from serving.transformer.store import Store, open_store

CUSTOMERS, TERMINALS = VIEWS
PUSHES = 25
N = 64
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
    repository(home, "fraud", "served").mkdir(parents=True)
    refill(home, sources_with(tmp_path_factory.mktemp("sources"), count=0), "small")
    return home


def test_a_lookup_during_a_push_sees_whole_states_only(home):
    store, done = opened(home), threading.Event()

    def push() -> None:
        try:
            for number in range(1, PUSHES + 1):
                store.append([entry(number, name) for name in NAMES])
                store.push()
        finally:
            done.set()

    torn, lookups = [], 0
    feast = FeatureStore(str(repository(home, "fraud", "served")))
    service = feast.get_feature_service(FEATURE_SERVICE)
    rows = {"customer_id": NAMES, "terminal_id": ["t"] * len(NAMES)}
    feast.get_online_features(service, rows)  # the first one loads code
    with ThreadPoolExecutor(1) as thread:
        pushing = thread.submit(push)
        while not done.is_set():
            found = look(store, NAMES, ["t"] * len(NAMES)).recent[CUSTOMERS.name]
            found += recent_of(feast.get_online_features(service, rows).to_dict(), CUSTOMERS)
            lookups += 1
            torn += [one for one in found if one.event_ids.tolist() != list(range(1, len(one) + 1))]
            torn += [one for one in found if len({len(values) for values in one.arrays()}) > 1]
        pushing.result()

    assert lookups > 5
    assert torn == []
    assert [len(found) for found in store.read_recent(NAMES)] == [PUSHES] * len(NAMES)


def test_what_one_replica_appended_the_next_lookup_of_another_sees_and_feast_after_a_push(home):
    one, other = opened(home), opened(home)

    one.append([entry(1, "seen"), entry(3, "seen")])
    one.append([entry(2, "seen")])

    assert ids(look(other, ["seen"], ["t"])) == [[1, 2, 3]]
    assert by_feast(home, "seen") == [[]]
    assert pushed_by(other) >= 1
    assert by_feast(home, "seen") == [[1, 2, 3]]
    assert ids(look(one, ["seen"], ["t"])) == [[1, 2, 3]]
    assert one.push() == 0


def test_rows_are_those_that_feast_gives_and_takes(home):
    store, feast = opened(home), FeatureStore(str(repository(home, "fraud", "served")))
    pairs = {"customer_id": ["first", "nobody", "pushed"], "terminal_id": ["t", "nowhere", "t"]}
    feast.push("customer_state_push", pd.DataFrame(columns_of({"pushed": state(2)}, CUSTOMERS, "customer_id")))
    given = feast.get_online_features(feast.get_feature_service(FEATURE_SERVICE), pairs).to_dict()

    assert_same(look(store, *pairs.values()), states_of(given, VIEWS))
    store.append([entry(7, "by us"), entry(8, "by us"), entry(9, "pushed", 9000)])
    served = look(store, ["by us", "pushed", "first"], ["t", "t", "nowhere"])
    pushed_by(store)

    pairs = {"customer_id": ["by us", "pushed", "first"], "terminal_id": ["t", "t", "nowhere"]}
    given = feast.get_online_features(feast.get_feature_service(FEATURE_SERVICE), pairs).to_dict()
    assert_same(served, states_of(given, VIEWS))
    assert [len(found) for found in recent_of(given, CUSTOMERS)] == [2, 3, 1]


def test_who_has_no_row_is_unseen(home):
    store = opened(home)
    store.append([entry(1, "appended only")])

    for asked in (store, RefreshedCache(store, load("fraud"), 60)):
        for _ in range(2):
            states = look(asked, ["first", "nobody", "appended only"], ["t", "nowhere", "t"])
            assert states.unseen[TERMINALS.name].tolist() == [False, True, False]
            assert [len(found) for found in states.recent[CUSTOMERS.name]] == [1, 0, 1]


def test_a_push_that_stalls_holds_back_no_lookup_and_no_append_and_nothing_older_comes_after(home):
    """The one who pushes has the right to write from before it reads; another one waits, and reads what it wrote."""
    slow, quick, reads, goes_on = opened(home), opened(home), threading.Event(), threading.Event()
    pushed_by(quick)
    slow.append([entry(1, "stalls")])
    read = slow._recent._pushed.read_recent

    def stalled(keys):
        rows = read(keys)
        reads.set()
        assert goes_on.wait(20)
        return rows

    slow._recent._pushed.read_recent = stalled
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(slow.push)
        assert reads.wait(20)
        quick.append([entry(2, "stalls")])
        second = threads.submit(quick.push)
        assert ids(look(quick, ["stalls"], ["t"])) == [[1, 2]]
        goes_on.set()
        assert first.result(20) == 1
        second.result(20)
    pushed_by(quick)

    assert by_feast(home, "stalls") == [[1, 2]]
    assert quick.unpushed() == 0


def test_a_push_that_fails_leaves_everything_to_the_next(home, monkeypatch):
    store = opened(home)
    store.append([entry(1, "fails")])
    with monkeypatch.context() as broken:
        broken.setattr(store._recent._pushed, "write_recent", lambda _: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            store.push()

    assert pushed_by(opened(home)) == 1
    assert by_feast(home, "fails") == [[1]]


def test_a_lookup_does_not_wait_for_an_unfinished_push(home):
    """The store is in WAL mode: readers go on beside a writer."""
    store = opened(home)
    with closing(sqlite3.connect(repository(home, "fraud", "served") / DATABASE, isolation_level=None)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.execute("BEGIN IMMEDIATE")

        answer = look(store, ["first"], ["t"])

        other.execute("ROLLBACK")
    assert answer.recent[CUSTOMERS.name][0].event_ids.tolist() == [1001]


def test_terminals_in_memory_give_what_the_store_gives_before_and_after_a_refill(home, tmp_path):
    store = opened(home)
    cached = RefreshedCache(store, load("fraud"), 3600)
    pairs = (["first", "nobody", "first"], ["t", "t", "nowhere"])

    for _ in range(2):
        assert_same(look(cached, *pairs), look(store, *pairs))
    refill(home, sources_with(tmp_path, count=7), "another")
    assert_same(look(cached, *pairs), look(store, *pairs))
    assert look(cached, *pairs).refreshed[TERMINALS.name][:, 0].tolist() == [7, 7, 0]


def test_a_store_that_was_never_filled_is_not_read_as_one_of_unknown_entities(home):
    store = opened(home)
    with closing(sqlite3.connect(repository(home, "fraud", "served") / DATABASE)) as other:
        other.execute("ALTER TABLE filled_with RENAME TO aside")
        try:
            for asked in (store, RefreshedCache(store, load("fraud"), 60)):
                with pytest.raises(Unavailable, match="never filled"):
                    look(asked, ["first"], ["t"])
        finally:
            other.execute("ALTER TABLE aside RENAME TO filled_with")
    assert look(store, ["first"], ["t"]).refreshed[TERMINALS.name].any()


def test_after_a_refill_what_is_newer_is_served_at_once_and_pushed_again_and_what_ingest_brought_is_dropped(
    home, tmp_path
):
    one, other = opened(home), opened(home)
    one.append([entry(number, "refilled") for number in (1, 2)] + [entry(1, "old")])
    pushed_by(one)

    refill(home, sources_with(tmp_path, count=1), "refilled", as_of_us=2)

    assert by_feast(home, "refilled") == [[]]
    assert ids(look(other, ["refilled"], ["t"])) == [[2]]
    pushed_by(other)
    assert by_feast(home, "refilled", "old") == [[2], []]
    assert ids(look(one, ["refilled", "old"], ["t", "t"])) == [[2], []]
    one.append([entry(0, "old")])  # it came late, after the fill
    assert ids(look(other, ["old"], ["t"])) == [[0]]
    pushed_by(one)
    assert by_feast(home, "old") == [[0]]


def test_what_was_appended_belongs_to_every_generation_and_is_pushed_into_each(home, tmp_path):
    served, aside = opened(home), repository(home, "fraud", "aside")
    served.append([entry(1, "shared"), entry(5, "shared")])
    pushed_by(served)

    fill(aside, load("fraud"), sources_with(tmp_path, count=3), Fill("aside", as_of_us=4, filled_us=now_us()))
    new = opened(home, "aside")
    served.append([entry(6, "shared")])

    assert ids(look(served, ["shared"], ["t"])) == [[1, 5, 6]]
    assert ids(look(new, ["shared"], ["t"])) == [[5, 6]]
    assert look(new, ["shared"], ["t"]).refreshed[TERMINALS.name][0, 0] == 3
    pushed_by(new)
    assert by_feast(home, "shared", generation="aside") == [[5, 6]]
    assert served.unpushed() == 1  # each for itself


def test_filling_another_generation_changes_nothing_that_is_served(home, tmp_path):
    store = opened(home)
    before = look(store, ["first", "nobody"], ["t", "nowhere"])

    fill(repository(home, "fraud", "tried"), load("fraud"), sources_with(tmp_path, count=9), Fill("tried"))

    assert_same(look(store, ["first", "nobody"], ["t", "nowhere"]), before)


def test_a_generation_that_is_not_there_is_refused_with_those_that_are(home):
    with pytest.raises(NotFound, match=r"generation gone .*there are: .*served"):
        open_store(home, load("fraud"), "gone", N)


def test_what_an_older_release_appended_is_taken_over(home):
    """Its table had no time of the append."""
    path = home / "former.db"
    records = Records(CUSTOMERS, N)
    record = records.of(entry(1, "former"), 0)[:-8]
    with closing(sqlite3.connect(path)) as old, old:
        old.execute(f'CREATE TABLE "{records.former_name}" (key TEXT, records BLOB, version INTEGER, pushed INTEGER)')
        old.execute(f'INSERT INTO "{records.former_name}" VALUES (?, ?, 1, 1)', ["former", record])

    events = SQLiteEvents(path, records)

    assert records.state(events.held(["former"])["former"]).event_ids.tolist() == [1]


def test_a_disk_that_refuses_is_an_error_before_the_answer(home):
    store = opened(home)
    store._recent.events._connection.execute("PRAGMA query_only = 1")

    with pytest.raises(Unavailable, match="cannot be appended"):
        store.append([entry(1, "refused")])


def test_what_was_appended_reaches_the_disk_and_the_log_does_not_grow_for_ever(home):
    store = opened(home)
    for number in range(50):
        store.append([entry(number, f"synced {of}") for of in range(20)])
    log = workload_folder(home, "fraud") / f"{FILE}-wal"
    before = log.stat().st_size

    store.sync()
    store.append([entry(51, "synced 0")])

    assert log.stat().st_size <= before


def refill(home: Path, sources: Path, name: str, as_of_us: int = EARLIEST_US) -> None:
    content = Fill(name, as_of_us=as_of_us, filled_us=now_us())
    fill(repository(home, "fraud", "served"), load("fraud"), sources, content)


def now_us() -> int:
    return time.time_ns() // 1000


def opened(home: Path, generation: str = "served") -> EmbeddedStore:
    store = open_store(home, load("fraud"), generation, N)
    assert isinstance(store, EmbeddedStore)
    return store


def entry(event_id: int, key: str, event_us: int | None = None) -> Entry:
    return Entry(event_id, key, event_id if event_us is None else event_us, (100, 0.5))


def ids(states: States) -> list[list[int]]:
    return [one.event_ids.tolist() for one in states.recent[CUSTOMERS.name]]


def by_feast(home: Path, *customers: str, generation: str = "served") -> list[list[int]]:
    """What Feast's own lookup says of their events."""
    feast = FeatureStore(str(repository(home, "fraud", generation)))
    rows = {"customer_id": list(customers)}
    found = feast.get_online_features([f"{CUSTOMERS.name}:{name}" for name in CUSTOMERS.fields], rows)
    return [one.event_ids.tolist() for one in recent_of(found.to_dict(), CUSTOMERS)]


def pushed_by(store: EmbeddedStore) -> int:
    """Pushes all there is."""
    count = 0
    while done := store.push():
        count += done
    return count
