"""Journal, overlay and pusher: what was answered is never forgotten, and each transaction counts once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fraud.features import VIEWS
from millrace.errors import AlreadyRunning, Unavailable
from millrace.inputs import RecentEvents
from millrace.lake.manifest import Manifest
from millrace.lookup import empty
from serving.transformer.journal import Entry, Journal
from serving.transformer.pushed import Pushed
from serving.transformer.pusher import Pusher
from serving.transformer.state import SLACK, Overlay

CUSTOMERS, TERMINALS = VIEWS


def entry(event_id: int, key: str = "a", event_us: int | None = None) -> Entry:
    return Entry(event_id, key, event_us or event_id, (100, 0.25))


class MemoryStore:
    """An online store in a dict; `down` makes it fail."""

    def __init__(self) -> None:
        self.states: dict[str, RecentEvents] = {}
        self.down = False
        self.pushes = 0
        self.filled: str | None = "first"

    def fill(self) -> str | None:
        return self.filled

    def refill(self, name: str) -> None:
        """What materialize does: everything that was pushed is gone."""
        self.filled, self.states = name, {}

    def read_pushed(self, keys: Sequence[str]) -> list[RecentEvents]:
        if self.down:
            raise ConnectionError("store is down")
        return [self.states.get(name, empty(CUSTOMERS)) for name in keys]

    def push(self, states: Mapping[str, RecentEvents]) -> None:
        self.pushes += 1
        self.states |= states


@pytest.fixture
def journal(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


def test_what_was_appended_is_there_after_a_restart(tmp_path):
    first = Journal(tmp_path)
    first.append([entry(1), entry(2, "b")])
    first.rotate()
    first.append([entry(3)])
    first.close()

    second = Journal(tmp_path)

    assert list(second.replay()) == [entry(1), entry(2, "b"), entry(3)]
    second.close()


def test_a_torn_or_unreadable_line_is_reported_and_the_rest_kept(tmp_path, capsys):
    first = Journal(tmp_path)
    first.append([entry(1)])
    first.close()
    (path,) = tmp_path.glob("*.jsonl")
    with path.open("ab") as stream:
        stream.write(b'not json\n{"transaction_id": 2}\n{"transaction_id": 3, "cust')

    second = Journal(tmp_path)

    assert list(second.replay()) == [entry(1)]
    assert capsys.readouterr().err.count("journal_line_skipped") == 3
    second.close()


def test_two_transformers_cannot_have_one_journal(tmp_path, journal):
    with pytest.raises(AlreadyRunning, match="another transformer has the journal"):
        Journal(tmp_path / "journal")


def test_a_disk_that_refuses_is_an_error_before_the_answer(journal, monkeypatch):
    monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(Unavailable, match="cannot be written"):
        journal.append([entry(1)])


def test_a_disk_that_refuses_a_new_segment_leaves_the_old_one_in_use(journal, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr("os.open", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            journal.rotate()

    journal.append([entry(1)])

    assert list(journal.replay()) == [entry(1)]
    assert len(journal.rotate()) == 1


def test_a_sync_that_fails_is_reported_and_tried_again(journal, monkeypatch, capsys):
    monkeypatch.setattr("serving.transformer.pusher.RETRY_S", 0.0)
    results = [OSError(5, "Input/output error"), None]

    def once_broken(_: int) -> None:
        if (result := results.pop(0)) is not None:
            raise result

    async def scenario() -> None:
        task = asyncio.create_task(Pusher(MemoryStore(), Overlay(4), journal).sync_forever())
        async with asyncio.timeout(5):
            while journal.dirty:
                await asyncio.sleep(0.01)
        task.cancel()

    journal.append([entry(1)])
    with monkeypatch.context() as broken:
        broken.setattr("os.fdatasync", once_broken)
        asyncio.run(scenario())

    assert results == []
    assert "journal_sync_failed" in capsys.readouterr().err


def test_only_closed_segments_are_dropped(journal):
    journal.append([entry(1)])
    closed = journal.rotate()
    journal.append([entry(2)])

    journal.drop(closed)

    assert list(journal.replay()) == [entry(2)]


def test_folding_twice_is_folding_once():
    overlay = Overlay(history_length=4)

    once = overlay.fold(empty(CUSTOMERS), [entry(2), entry(1)])
    twice = overlay.fold(once, [entry(1), entry(2)])

    assert once.event_ids.tolist() == twice.event_ids.tolist() == [1, 2]


def test_a_state_keeps_some_more_than_n_so_that_a_day_can_be_replayed():
    overlay = Overlay(history_length=4)
    state = overlay.fold(empty(CUSTOMERS), [entry(number) for number in range(1, 5 + SLACK)])

    assert len(state) == 4 + SLACK
    assert len(state.before(5, 5)) == 4


def test_entries_that_arrive_during_a_push_stay_pending():
    overlay = Overlay(4)
    overlay.add([entry(1), entry(2, "b")])
    taken = overlay.oldest(10)
    overlay.add([entry(3)])

    overlay.pushed(taken)

    assert overlay.pending(["a", "b"]) == {"a": (entry(3),)}


def test_requests_of_one_customer_take_turns_in_order_of_arrival():
    overlay, seen = Overlay(4), []

    async def request(name: str, customers: Sequence[str]) -> None:
        async with overlay.in_order(customers):
            seen.append(f"{name} in")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            seen.append(f"{name} out")

    async def scenario() -> None:
        await asyncio.gather(request("1", ["a", "b"]), request("2", ["b", "a", "a"]), request("3", ["c"]))

    asyncio.run(scenario())

    assert [word for word in seen if word[0] != "3"] == ["1 in", "1 out", "2 in", "2 out"]
    assert seen.index("3 out") < seen.index("2 in")


def test_a_failed_request_frees_its_customers():
    overlay = Overlay(4)

    async def scenario() -> None:
        with pytest.raises(ValueError, match="boom"):
            async with overlay.in_order(["a"]):
                raise ValueError("boom")
        async with asyncio.timeout(1), overlay.in_order(["a"]):
            pass

    asyncio.run(scenario())


def test_a_push_adds_to_what_the_store_has_and_empties_the_journal(journal):
    store, overlay = MemoryStore(), Overlay(4)
    store.states["a"] = overlay.fold(empty(CUSTOMERS), [entry(1)])
    for number in (2, 3):
        journal.append([entry(number)])
        overlay.add([entry(number)])

    pushed = asyncio.run(Pusher(store, overlay, journal).push())

    assert pushed == 1
    assert store.states["a"].event_ids.tolist() == [1, 2, 3]
    assert len(overlay) == 0
    assert list(journal.replay()) == []


def test_a_store_that_is_down_loses_nothing(journal):
    store, overlay = MemoryStore(), Overlay(4)
    store.down = True
    journal.append([entry(1)])
    overlay.add([entry(1)])
    pusher = Pusher(store, overlay, journal)

    with pytest.raises(ConnectionError):
        asyncio.run(pusher.push())

    assert overlay.pending(["a"]) == {"a": (entry(1),)}
    assert list(journal.replay()) == [entry(1)]
    store.down = False
    assert asyncio.run(pusher.push()) == 1
    assert list(journal.replay()) == []


def test_nothing_to_push_costs_the_store_nothing(journal):
    store = MemoryStore()

    assert asyncio.run(Pusher(store, Overlay(4), journal).push()) == 0
    assert store.pushes == 0


def test_memory_is_bounded_and_then_the_journal_is_kept(journal, monkeypatch):
    monkeypatch.setattr("serving.transformer.state.MAX_KEYS", 2)
    store, overlay = MemoryStore(), Overlay(4)
    for number, name in enumerate("abc", start=1):
        journal.append([entry(number, name)])
        overlay.add([entry(number, name)])

    asyncio.run(Pusher(store, overlay, journal).push())

    assert sorted(store.states) == ["b", "c"]
    assert [item.key for item in journal.replay()] == ["a", "b", "c"]


def test_a_splitted_stream_of_pushes_gives_the_same_state_as_one(journal):
    entries = [entry(number, event_us=number // 2) for number in range(1, 9)]
    together, apart = MemoryStore(), MemoryStore()
    for store, parts in ((together, [entries]), (apart, [entries[:3], entries[2:5], entries[5:]])):
        overlay = Overlay(4)
        pusher = Pusher(store, overlay, journal)
        for part in parts:
            overlay.add(part)
            asyncio.run(pusher.push())

    for one, other in zip(together.states["a"].arrays(), apart.states["a"].arrays(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert replace(entries[0]) == entries[0]


def lake_with(lake: Path, fill: str, as_of_us: int) -> Path:
    """A lake that says from which instant a fill speaks."""
    folder = lake / "online" / fill
    folder.mkdir(parents=True)
    as_of = datetime.fromtimestamp(as_of_us / 1e6, UTC).isoformat()
    Manifest(kind="online_store", id=fill, workload="fraud", uri=str(folder), facts={"as_of": as_of}).write(
        folder / "manifest.json"
    )
    return lake


def test_what_was_pushed_goes_in_again_after_a_refill_unless_ingest_brought_it(tmp_path, journal):
    store, overlay = MemoryStore(), Overlay(4)
    pushed = Pushed(tmp_path / "pushed", lake_with(tmp_path, "second", as_of_us=2))
    pusher = Pusher(store, overlay, journal, pushed)
    for number, name in ((1, "a"), (2, "a"), (3, "b")):
        journal.append([entry(number, name)])
        overlay.add([entry(number, name)])
        asyncio.run(pusher.push())

    store.refill("second")
    asyncio.run(pusher.push())
    asyncio.run(pusher.push())

    assert {name: state.event_ids.tolist() for name, state in store.states.items()} == {"a": [2], "b": [3]}
    store.refill("third")
    asyncio.run(Pusher(store, overlay, journal, Pushed(tmp_path / "pushed", tmp_path)).push())  # after a restart
    assert {name: state.event_ids.tolist() for name, state in store.states.items()} == {"a": [2], "b": [3]}
    assert [path.name for path in (tmp_path / "pushed").iterdir()] == ["third.jsonl"]


def test_a_kill_while_entries_go_in_again_loses_none(tmp_path, journal, monkeypatch):
    monkeypatch.setattr("serving.transformer.pushed.GROUP", 2)
    store, overlay = MemoryStore(), Overlay(4)
    pusher = Pusher(store, overlay, journal, Pushed(tmp_path / "pushed", tmp_path))
    for number in range(1, 6):
        journal.append([entry(number, f"c{number}")])
        overlay.add([entry(number, f"c{number}")])
    asyncio.run(pusher.push())
    store.refill("second")
    real, calls = store.push, []

    def dies(states: Mapping[str, RecentEvents]) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise ConnectionError("killed")
        real(states)

    monkeypatch.setattr(store, "push", dies)
    with pytest.raises(ConnectionError):
        asyncio.run(pusher.push())
    asyncio.run(pusher.push())

    assert sorted(store.states) == [f"c{number}" for number in range(1, 6)]


def test_a_store_that_does_not_tell_its_fill_is_pushed_to_as_ever(tmp_path, journal):
    store, overlay = MemoryStore(), Overlay(4)
    store.filled = None
    journal.append([entry(1)])
    overlay.add([entry(1)])

    asyncio.run(Pusher(store, overlay, journal, Pushed(tmp_path / "pushed", tmp_path)).push())

    assert list(store.states) == ["a"]
    assert list((tmp_path / "pushed").iterdir()) == []
    assert list(journal.replay()) == []


def test_what_is_kept_for_a_refill_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.transformer.pushed.MAX_BYTES", 1000)
    pushed = Pushed(tmp_path, tmp_path)

    for number in range(100):
        pushed.moved([entry(number)], "f")

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3000
    kept = [
        item.event_id for path in pushed.of_other_fills("g") for group in pushed.groups(path, "g") for item in group
    ]
    assert kept == list(range(kept[0], 100))
