"""An event is in the store before its answer goes out; requests of one entity take turns; pushes go on behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from millrace.appended.records import Entry
from millrace.errors import Unavailable
from serving.transformer import pusher
from serving.transformer.appends import Appends
from serving.transformer.pusher import Pusher
from serving.transformer.turns import Turns


def entry(event_id: int, key: str = "a") -> Entry:
    return Entry(event_id, key, event_id, (100, 0.25))


def test_requests_of_one_entity_take_turns_in_order_of_arrival():
    turns, seen = Turns(), []

    async def request(name: str, keys: Sequence[str]) -> None:
        async with turns.of(keys):
            seen.append(f"{name} in")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            seen.append(f"{name} out")

    async def scenario() -> None:
        await asyncio.gather(request("1", ["a", "b"]), request("2", ["b", "a", "a"]), request("3", ["c"]))

    asyncio.run(scenario())

    assert [word for word in seen if word[0] != "3"] == ["1 in", "1 out", "2 in", "2 out"]
    assert seen.index("3 out") < seen.index("2 in")
    assert len(turns) == 0


def test_a_failed_request_frees_its_entities():
    turns = Turns()

    async def scenario() -> None:
        with pytest.raises(ValueError, match="boom"):
            async with turns.of(["a"]):
                raise ValueError("boom")
        async with asyncio.timeout(1), turns.of(["a"]):
            pass

    asyncio.run(scenario())


class SlowStore:
    """Notes what each append brought; waits for `gate`, refuses the event 13."""

    def __init__(self) -> None:
        self.appends: list[list[int]] = []
        self.gate = threading.Event()

    def append(self, entries: Sequence[Entry]) -> None:
        self.appends.append([one.event_id for one in entries])
        assert self.gate.wait(20)
        if 13 in self.appends[-1]:
            raise Unavailable("the disk is full")


async def begun(store: SlowStore) -> None:
    async with asyncio.timeout(20):
        while not store.appends:
            await asyncio.sleep(0.001)


def test_an_append_alone_goes_at_once_and_those_that_come_meanwhile_go_together():
    store = SlowStore()

    async def scenario() -> None:
        appends = Appends(store.append)
        first = asyncio.create_task(appends.add([entry(1)]))
        await begun(store)
        rest = [asyncio.create_task(appends.add([entry(number), entry(number + 20)])) for number in (2, 3)]
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(first, *rest, appends.add([]))

    asyncio.run(scenario())

    assert store.appends == [[1], [2, 22, 3, 23]]


def test_an_append_that_fails_says_so_to_all_who_shared_it_and_the_next_goes_on():
    store = SlowStore()
    store.gate.set()

    async def scenario() -> None:
        appends = Appends(store.append)
        with pytest.raises(Unavailable, match="disk is full"):
            await appends.add([entry(13)])
        await appends.add([entry(1)])

    asyncio.run(scenario())

    assert store.appends == [[13], [1]]


def test_an_append_that_is_given_up_before_its_turn_leaves_no_trace():
    store = SlowStore()

    async def scenario() -> None:
        appends = Appends(store.append)
        first = asyncio.create_task(appends.add([entry(1)]))
        await begun(store)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await appends.add([entry(2)])
        store.gate.set()
        await first
        await appends.add([entry(3)])

    asyncio.run(scenario())

    assert store.appends == [[1], [3]]


class Queue:
    """A store with so many entities to push, 32 at a time; `down` makes it fail."""

    def __init__(self, waiting: int) -> None:
        self.waiting, self.down, self.syncs = waiting, False, 0

    def unpushed(self) -> int:
        return self.waiting

    def push(self) -> int:
        if self.down:
            raise ConnectionError("store is down")
        done = min(self.waiting, 32)
        self.waiting -= done
        return done

    def sync(self) -> None:
        self.syncs += 1
        if self.syncs == 1:
            raise OSError(5, "Input/output error")


def test_a_push_goes_on_until_nothing_waits():
    store = Queue(100)

    assert asyncio.run(Pusher(store).push()) == 100
    assert asyncio.run(Pusher(store).push()) == 0


def test_pushes_and_syncs_that_fail_are_reported_and_tried_again(lab, monkeypatch, capsys):
    for name in ("INTERVAL_S", "SYNC_INTERVAL_S", "RETRY_S"):
        monkeypatch.setattr(pusher, name, 0.001)
    store = Queue(40)
    store.down = True

    async def scenario() -> None:
        working = Pusher(store)
        tasks = [asyncio.create_task(work) for work in (working.push_forever(), working.sync_forever())]
        await lab.until("a failed push", lambda: "push_failed" in capsys_text())
        store.down = False
        await lab.until("the next push and sync", lambda: not store.waiting and store.syncs > 1)
        for task in tasks:
            task.cancel()

    told: list[str] = []

    def capsys_text() -> str:
        told.append(capsys.readouterr().err)
        return "".join(told)

    asyncio.run(scenario())

    assert "sync_failed" in capsys_text()


def test_a_store_that_refuses_an_event_is_503_and_no_answer(lab, options):
    store = lab.MemoryStore(refuses=Unavailable("events cannot be appended"))

    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options(), store) as path:
            return await path.predict(lab.transaction())

    reply = asyncio.run(scenario())

    assert reply.status == 503
    assert reply.headers["retry-after"] == "1"
    assert "cannot be appended" in reply.document["error"]


def test_an_answer_goes_out_after_its_event_is_in_the_store(lab, options):
    store, gate = lab.MemoryStore(), threading.Event()
    append = store.append

    def slow(entries):
        assert gate.wait(20)
        append(entries)

    store.append = slow

    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options(), store) as path:
            asked = asyncio.create_task(path.predict(lab.transaction()))
            await lab.until("the score", lambda: model.asked)
            await asyncio.sleep(0.05)
            early = asked.done()
            gate.set()
            return early, await asked

    early, reply = asyncio.run(scenario())

    assert (early, reply.status) == (False, 200)
    assert [one.event_id for one in store.appended] == [1]
