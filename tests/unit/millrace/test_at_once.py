"""When the event loop does blocking work itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from millrace.appended.records import Entry
from millrace.at_once import PAUSE_S, SLOW_S, AtOnce
from serving.transformer.appends import Appends


def test_work_that_is_slow_twice_in_a_row_goes_to_a_thread_for_a_while():
    now = 100.0
    at_once = AtOnce(lambda: now)

    for _ in range(2):
        assert at_once.allowed
        with at_once.timed():
            now += 2 * SLOW_S

    assert not at_once.allowed
    now += PAUSE_S
    assert at_once.allowed


def test_work_that_is_slow_once_stays_in_the_loop():
    now = 100.0
    at_once = AtOnce(lambda: now)

    for took_s in (2 * SLOW_S, 0.0, 2 * SLOW_S):
        with at_once.timed():
            now += took_s

    assert at_once.allowed


def test_an_append_that_cannot_be_done_at_once_is_done_by_a_thread():
    threads: list[str] = []
    free = iter((True, False))

    def append(entries: Sequence[Entry]) -> None:
        threads.append(threading.current_thread().name)

    async def scenario() -> None:
        appends = Appends(append, lambda entries: next(free))
        for number in (1, 2):
            await appends.add([Entry(number, "c", number, ())])

    asyncio.run(scenario())

    assert len(threads) == 1
    assert threads[0].startswith("append")
