"""Lookups share a round trip, fail alone, and never wait longer than they may."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from millrace.inputs import States
from serving.transformer.refreshed import Keys
from serving.transformer.store import INLINE_ROWS, SLOW_LOOKUPS, SLOW_PAUSE_S, SLOW_S, Lookups


class SlowStore:
    """Answers with the names it was asked for, as states; waits for `gate`, fails on 'bad'."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = threading.Event()

    def read(self, keys: Keys) -> States:
        self.calls.append(list(keys["card"]))
        self.gate.wait(5)
        if "bad" in keys["card"]:
            raise ConnectionError("store is down")
        return States({"cards": list(keys["card"])}, {"shops": np.array([[int(key)] for key in keys["shop"]])})  # type: ignore[dict-item]


def look(
    lookups: Lookups, cards: Sequence[str], shops: Sequence[str], timeout_s: float = 5
) -> Coroutine[Any, Any, States]:
    return lookups.read({"card": cards, "shop": shops}, len(cards), timeout_s)


def answered(states: States) -> tuple[list[Any], list[int]]:
    return list(states.recent["cards"]), states.refreshed["shops"].ravel().tolist()


def test_a_lookup_alone_goes_at_once_and_those_that_wait_go_together():
    store = SlowStore()

    async def scenario() -> list[Any]:
        lookups = Lookups(store)
        first = asyncio.create_task(look(lookups, ["a"], ["1"], 5))
        while not store.calls:
            await asyncio.sleep(0)
        rest = [asyncio.create_task(look(lookups, [name, name + "2"], ["7", "8"], 5)) for name in "bcd"]
        await asyncio.sleep(0)
        store.gate.set()
        return await asyncio.gather(first, *rest)

    answers = asyncio.run(scenario())

    assert store.calls == [["a"], ["b", "b2", "c", "c2", "d", "d2"]]
    assert answered(answers[0]) == (["a"], [1])
    assert answered(answers[2]) == (["c", "c2"], [7, 8])


def test_a_failure_reaches_whoever_asked_and_the_next_lookup_works():
    store = SlowStore()
    store.gate.set()

    async def scenario() -> Any:
        lookups = Lookups(store)
        with pytest.raises(ConnectionError):
            await look(lookups, ["bad"], ["1"], 5)
        return await look(lookups, ["good"], ["1"], 5)

    assert answered(asyncio.run(scenario()))[0] == ["good"]


def test_a_slow_store_is_not_waited_for():
    store = SlowStore()

    async def scenario() -> Any:
        lookups = Lookups(store)
        with pytest.raises(TimeoutError):
            await look(lookups, ["a"], ["1"], 0.05)
        store.gate.set()
        return await look(lookups, ["b"], ["2"], 5)

    assert answered(asyncio.run(scenario()))[0] == ["b"]


def test_lookups_given_up_while_the_store_hangs_are_not_asked_for_later():
    store = SlowStore()

    async def scenario() -> Any:
        lookups = Lookups(store)
        first = asyncio.create_task(look(lookups, ["hangs"], ["1"], 0.05))
        while not store.calls:
            await asyncio.sleep(0)
        given_up = [first, *(asyncio.create_task(look(lookups, [name], ["1"], 0.05)) for name in "bc")]
        results = await asyncio.gather(*given_up, return_exceptions=True)
        assert [type(result) for result in results] == [TimeoutError] * 3
        assert len(lookups) == 0
        later = asyncio.create_task(look(lookups, ["d"], ["2"], 5))
        await asyncio.sleep(0)
        store.gate.set()
        return await later

    assert answered(asyncio.run(scenario()))[0] == ["d"]
    assert store.calls == [["hangs"], ["d"]]


class QuickStore(SlowStore):
    """Notes the thread that asked; takes `takes_s` by its own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.set()
        self.threads: list[int] = []
        self.now = self.takes_s = 0.0

    def read(self, keys: Keys) -> States:
        self.threads.append(threading.get_ident())
        self.now += self.takes_s
        return super().read(keys)


def test_an_embedded_store_is_asked_in_the_loop_until_it_is_slow():
    store, here = QuickStore(), threading.get_ident()

    async def scenario() -> None:
        lookups = Lookups(store, embedded=True, clock=lambda: store.now)
        await look(lookups, ["quick"], ["1"], 5)
        store.takes_s = 2 * SLOW_S
        for _ in range(SLOW_LOOKUPS):
            await look(lookups, ["slow"], ["1"], 5)
        await look(lookups, ["after"], ["1"], 5)
        store.now += SLOW_PAUSE_S
        await look(lookups, ["later"], ["1"], 5)

    asyncio.run(scenario())

    assert [thread == here for thread in store.threads] == [True, *[True] * SLOW_LOOKUPS, False, True]


def test_a_lookup_that_had_to_wait_for_a_core_once_does_not_send_the_next_ones_to_a_thread():
    store, here = QuickStore(), threading.get_ident()

    async def scenario() -> None:
        lookups = Lookups(store, embedded=True, clock=lambda: store.now)
        for takes_s in (2 * SLOW_S, 0.0) * SLOW_LOOKUPS:
            store.takes_s = takes_s
            await look(lookups, ["name"], ["1"], 5)

    asyncio.run(scenario())

    assert {thread == here for thread in store.threads} == {True}


def test_many_rows_of_an_embedded_store_do_not_hold_the_loop():
    store = QuickStore()
    names = [str(number) for number in range(INLINE_ROWS + 1)]

    answer = asyncio.run(look(Lookups(store, embedded=True), names, names))

    assert answered(answer)[0] == names
    assert store.threads != [threading.get_ident()]


def test_an_embedded_store_that_fails_says_so():
    with pytest.raises(ConnectionError):
        asyncio.run(look(Lookups(QuickStore(), embedded=True), ["bad"], ["1"]))
