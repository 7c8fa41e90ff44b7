"""Recent events in memory: what a lookup and a fold would give, until the store is another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fraud.features import VIEWS
from millrace.inputs import RecentEvents
from millrace.installed import load
from millrace.lookup import empty
from serving.transformer import recent
from serving.transformer.recent import FILL_AGE_S, RecentCache
from serving.transformer.refreshed import RefreshedCache

CUSTOMERS, TERMINALS = VIEWS


class Store:
    """Everybody has one transaction, whose number is that of the fill; notes what it is asked."""

    def __init__(self) -> None:
        self.filled, self.asked, self.fills = 1, [], 0

    def contents(self) -> str:
        self.fills += 1
        return f"fill-{self.filled}"

    def read_recent(self, keys):
        self.asked += keys
        nobody = empty(CUSTOMERS)
        return [nobody if key == "unknown" else scored(nobody, self.filled) for key in keys]

    def read_refreshed(self, view, keys):
        return np.full((len(keys), len(view.fields)), self.filled)

    def read(self, keys):
        raise AssertionError("the store is never read past its memory")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def known(store, clock) -> RecentCache:
    return RecentCache(store, 60, clock)


def ask(known: RecentCache, *names: str) -> list[RecentEvents]:
    """As the transformer does, with the memory of refreshed views in front."""
    return read(RefreshedCache(known, load("fraud"), 60), *names)


def read(cache: RefreshedCache, *names: str) -> list[RecentEvents]:
    states = cache.read({"customer": names, "terminal": ["t"] * len(names)})
    return list(states.recent["customer_state"])


def ids(states: list[RecentEvents]) -> list[list[int]]:
    return [state.event_ids.tolist() for state in states]


def scored(state: RecentEvents, number: int) -> RecentEvents:
    return state.append(number, number, (100, 0.0), 64)


def test_a_customer_who_was_answered_is_not_looked_up_again(known, store):
    (state,) = ask(known, "a")
    known.keep({"a": scored(state, 7)}, known.generation)

    assert ids(ask(known, "b", "a", "unknown", "a")) == [[1], [1, 7], [], [1, 7]]
    assert store.asked == ["a", "b", "unknown"]


def test_a_customer_nobody_had_seen_is_known_after_an_answer(known, store):
    ask(known, "unknown")
    known.keep({"unknown": scored(empty(CUSTOMERS), 7)}, known.generation)

    assert ids(ask(known, "unknown")) == [[7]]


def test_a_refill_is_seen_within_moments_and_nothing_of_before_it_stays(known, store, clock):
    ask(known, "a")
    before = known.generation
    known.keep({"a": scored(empty(CUSTOMERS), 7)}, before)
    store.filled = 2
    clock.now += FILL_AGE_S

    assert ids(ask(known, "a")) == [[2]]
    known.keep({"a": scored(empty(CUSTOMERS), 8)}, before)  # an answer whose lookup was of the store before
    assert ids(ask(known, "a")) == [[2]]


def test_what_is_pushed_again_after_a_refill_is_not_hidden(known, store):
    """A state read between the refill and the push lacks what the push brings."""
    (state,) = ask(known, "a")
    before = known.generation
    known.keep({"a": state}, before)

    known.forget()
    known.keep({"a": state}, before)

    assert ids(ask(known, "a")) == [[1]]
    assert store.asked == ["a", "a"]


def test_a_state_is_looked_up_again_when_its_lookup_is_old_however_often_it_was_kept(known, store, clock):
    ask(known, "a")
    for _ in range(6):
        known.keep({"a": scored(empty(CUSTOMERS), 7)}, known.generation)
        clock.now += 10

    assert ids(ask(known, "a")) == [[1]]
    known.keep({"a": scored(empty(CUSTOMERS), 8)}, known.generation)
    clock.now += 50
    assert ids(ask(known, "a")) == [[8]]


def test_the_store_is_asked_what_it_was_filled_from_after_each_read_and_now_and_then_without(known, store, clock):
    reader = RefreshedCache(known, load("fraud"), 60)
    read(reader, "a")
    known.keep({"a": scored(empty(CUSTOMERS), 7)}, known.generation)
    fills = store.fills

    for _ in range(10):
        read(reader, "a")
    assert store.fills == fills
    read(reader, "b")
    assert store.fills == fills + 1
    clock.now += FILL_AGE_S
    read(reader, "a")
    assert store.fills == fills + 2


def test_memory_is_bounded_and_keeps_who_was_answered_last(known, store, monkeypatch):
    monkeypatch.setattr(recent, "MAX_STATES", 2)
    ask(known, "a", "b", "c")
    states: dict[str, Any] = {name: scored(empty(CUSTOMERS), 7) for name in "abc"}

    known.keep({"a": states["a"]}, known.generation)
    known.keep({"b": states["b"]}, known.generation)
    known.keep({"a": states["a"]}, known.generation)
    known.keep({"c": states["c"]}, known.generation)

    assert len(known) == 2
    assert ids(ask(known, "a", "c", "b")) == [[7], [7], [1]]


def test_a_renewal_of_terminals_forgets_no_customer(store, clock, known):
    (state,) = ask(known, "a")
    known.keep({"a": state}, known.generation)
    store.contents = lambda: "fill-1@2018-05-10T13:00:00+00:00"
    clock.now += FILL_AGE_S

    ask(known, "a")

    assert store.asked == ["a"]
