"""States of refreshed views in memory: as the store has them, whatever happens to it, and asked for once."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from fraud.features import VIEWS
from millrace.inputs import States
from millrace.installed import load
from millrace.lookup import empty
from serving.transformer import refreshed
from serving.transformer.refreshed import RefreshedCache

NOON = datetime(2018, 5, 10, 12, tzinfo=UTC).timestamp()


class Store:
    """Every terminal's state is the number of the fill; `swap_at` refills after so many reads."""

    def __init__(self) -> None:
        self.filled, self.asked, self.reads = 1, [], 0
        self.swap_at: set[int] = set()

    def contents(self):
        return f"fill-{self.filled}"

    def read_recent(self, keys):
        number = self._count()
        return [empty(CUSTOMERS).append(number, number, (0, 0.0), 4)] * len(keys)

    def read_refreshed(self, view, keys):
        self.asked += keys
        self._count()
        known = [[0 if key == "unknown" else self.filled] for key in keys]
        return np.tile(np.array(known), (1, len(view.fields)))

    def _count(self) -> int:
        filled = self.filled
        self.reads += 1
        if self.reads in self.swap_at:
            self.filled += 1
        return filled


CUSTOMERS, TERMINALS = VIEWS


def cache_of(store, ttl_s, clock) -> RefreshedCache:
    return RefreshedCache(store, load("fraud"), ttl_s, clock)


def read(cache: RefreshedCache, customers: list[str], terminals: list[str]) -> States:
    return cache.read({"customer": customers, "terminal": terminals})


def counts(states: States) -> list[int]:
    return states.refreshed["terminal_state"][:, 0].tolist()


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_terminal_is_asked_for_once_and_answers_keep_their_order(store, clock):
    cache = cache_of(store, 60, clock)

    first = read(cache, ["a", "b", "c"], ["1", "2", "1"])
    second = read(cache, ["a", "b"], ["3", "2"])

    assert store.asked == ["1", "2", "3"]
    assert first.refreshed["terminal_state"].shape == (3, len(TERMINALS.fields))
    assert (counts(first), counts(second)) == ([1, 1, 1], [1, 1])


def test_an_unknown_terminal_stays_unknown(store, clock):
    cache = cache_of(store, 60, clock)

    for _ in range(2):
        assert counts(read(cache, ["a"], ["unknown"])) == [0]
    assert store.asked == ["unknown"]


@pytest.mark.parametrize(
    ("passed_s", "again"), [(59, False), (60, True), (86_399, True)], ids=["before", "at the TTL", "later"]
)
def test_an_entry_lives_for_its_ttl(store, clock, passed_s, again):
    cache = cache_of(store, 60, clock)
    read(cache, ["a"], ["1"])
    clock.now += passed_s

    read(cache, ["a"], ["1"])

    assert store.asked == (["1", "1"] if again else ["1"])


@pytest.mark.parametrize("refresh", [0, 6, 12, 18])
def test_no_entry_outlives_a_refresh(store, clock, refresh):
    cache = cache_of(store, 10 * 86_400, clock)
    clock.now = NOON + (12 + refresh) * 3600 - 1
    read(cache, ["a"], ["1"])
    clock.now += 1

    read(cache, ["a"], ["1"])

    assert store.asked == ["1", "1"]


def test_a_refill_is_seen_by_the_next_lookup(store, clock):
    cache = cache_of(store, 3600, clock)
    assert counts(read(cache, ["a"], ["1"])) == [1]
    store.filled = 2

    assert counts(read(cache, ["a"], ["1"])) == [2]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("at", [1, 2])
def test_a_refill_during_a_lookup_never_mixes_two_fills(store, clock, at, cached):
    cache = cache_of(store, 3600, clock)
    if cached:
        read(cache, ["a"], ["1"])
    store.swap_at = {store.reads + at}

    answer = read(cache, ["a"], ["1"])

    assert answer.recent["customer_state"][0].event_us.tolist() == counts(answer)


def test_memory_is_bounded(store, clock, monkeypatch):
    monkeypatch.setattr(refreshed, "MAX_STATES", 10)
    cache = cache_of(store, 3600, clock)

    for number in range(30):
        read(cache, ["a"], [str(number)])

    assert len(cache) == 10
    read(cache, ["a"], ["29"])
    assert store.asked[-1] == "29"
    assert len(store.asked) == 30
