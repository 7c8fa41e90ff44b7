"""Terminal states in memory: as the store has them, whatever happens to it, and asked for once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fraud.features import TERMINAL_STATE_FIELDS
from serving.transformer import terminals
from serving.transformer.terminals import CachedTerminals

NOON = datetime(2018, 5, 10, 12, tzinfo=UTC).timestamp()


class Store:
    """Every terminal's state is the number of the fill; `swap_at` refills after so many reads."""

    def __init__(self) -> None:
        self.filled, self.asked, self.reads = 1, [], 0
        self.swap_at: set[int] = set()

    def contents(self):
        return f"fill-{self.filled}"

    def read_customer_columns(self, customers):
        return {"event_us": [[self._count()]] * len(customers)}

    def read_terminal_columns(self, names):
        self.asked += names
        self._count()
        return {name: [None if terminal == "unknown" else self.filled for terminal in names] for name in FIELDS}

    def _count(self) -> int:
        filled = self.filled
        self.reads += 1
        if self.reads in self.swap_at:
            self.filled += 1
        return filled


FIELDS = TERMINAL_STATE_FIELDS


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_terminal_is_asked_for_once_and_answers_keep_their_order(store, clock):
    cache = CachedTerminals(store, 60, clock)

    first = cache.read(["a", "b", "c"], ["1", "2", "1"])
    second = cache.read(["a", "b"], ["3", "2"])

    assert store.asked == ["1", "2", "3"]
    assert set(first) == {"event_us", *FIELDS}
    assert (len(first["count_1d"]), len(second["count_1d"])) == (3, 2)


def test_an_unknown_terminal_stays_unknown(store, clock):
    cache = CachedTerminals(store, 60, clock)

    for _ in range(2):
        assert cache.read(["a"], ["unknown"])["count_1d"] == [None]
    assert store.asked == ["unknown"]


@pytest.mark.parametrize(
    ("passed_s", "again"), [(59, False), (60, True), (86_399, True)], ids=["before", "at the TTL", "later"]
)
def test_an_entry_lives_for_its_ttl(store, clock, passed_s, again):
    cache = CachedTerminals(store, 60, clock)
    cache.read(["a"], ["1"])
    clock.now += passed_s

    cache.read(["a"], ["1"])

    assert store.asked == (["1", "1"] if again else ["1"])


@pytest.mark.parametrize("refresh", [0, 6, 12, 18])
def test_no_entry_outlives_a_refresh(store, clock, refresh):
    cache = CachedTerminals(store, 10 * 86_400, clock)
    clock.now = NOON + (12 + refresh) * 3600 - 1
    cache.read(["a"], ["1"])
    clock.now += 1

    cache.read(["a"], ["1"])

    assert store.asked == ["1", "1"]


def test_a_refill_is_seen_by_the_next_lookup(store, clock):
    cache = CachedTerminals(store, 3600, clock)
    assert cache.read(["a"], ["1"])["count_1d"] == [1]
    store.filled = 2

    assert cache.read(["a"], ["1"])["count_1d"] == [2]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("at", [1, 2])
def test_a_refill_during_a_lookup_never_mixes_two_fills(store, clock, at, cached):
    cache = CachedTerminals(store, 3600, clock)
    if cached:
        cache.read(["a"], ["1"])
    store.swap_at = {store.reads + at}

    answer = cache.read(["a"], ["1"])

    assert answer["event_us"][0][0] == answer["count_1d"][0]


def test_memory_is_bounded(store, clock, monkeypatch):
    monkeypatch.setattr(terminals, "MAX_TERMINALS", 10)
    cache = CachedTerminals(store, 3600, clock)

    for number in range(30):
        cache.read(["a"], [str(number)])

    assert len(cache) == 10
    cache.read(["a"], ["29"])
    assert store.asked[-1] == "29"
    assert len(store.asked) == 30
