"""Records of appended events: bytes that keep their order, and the state that they and Feast's row make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from folding import folded
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.features import VIEWS
from millrace.appended.records import SLACK, Entry, Records, merged
from millrace.inputs import RecentEvents
from millrace.lake.feast_home import Fill
from millrace.lookup import empty

CUSTOMERS, _ = VIEWS
N = 4
NOW_US = 1_000
RECORDS = Records(CUSTOMERS, N)
CAPACITY = N + SLACK

ids = st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20)
instants = st.integers(0, 7 * 10**15) | st.integers(0, 9)
entries = st.builds(
    lambda id_, at, cents, risk: Entry(id_, "a", at, (cents, risk)),
    ids,
    instants,
    st.integers(-(2**40), 2**40),
    st.floats(0, 1, width=32),
)
unlike = st.lists(entries, max_size=60, unique_by=lambda entry: entry.event_id)


def held(of: Sequence[Entry]) -> bytes:
    found = b""
    for entry in of:
        found = RECORDS.inserted(found, RECORDS.of(entry, NOW_US))
    return found


def state(of: Sequence[Entry], capacity: int = CAPACITY) -> RecentEvents:
    return folded(empty(CUSTOMERS), of, capacity)


def assert_same(one: RecentEvents, other: RecentEvents) -> None:
    for values, others in zip(one.arrays(), other.arrays(), strict=True):
        assert values.dtype == others.dtype
        np.testing.assert_array_equal(values, others)


@settings(max_examples=200, deadline=None)
@given(st.lists(entries, max_size=60))
def test_records_give_the_state_that_folding_gives(appended):
    assert_same(RECORDS.state(held(appended)), state(appended))


@settings(max_examples=200, deadline=None)
@given(unlike, st.integers(0, 60), st.integers(0, 60))
def test_a_row_and_what_was_appended_make_the_state_of_all_of_it(events, first, second):
    """Whatever the two have in common: a push happened before, in between, or not at all."""
    row, appended = events[: max(first, second)], events[min(first, second) :]

    served = merged(state(row), RECORDS.state(held(appended)), CAPACITY)

    if len(events) <= CAPACITY:
        assert_same(served, state(events))
    assert_same(served, state([*row, *appended]))


def test_of_two_events_with_one_id_the_first_stays():
    first, second = Entry(1, "a", 5, (100, 0.5)), Entry(1, "a", 9, (200, 0.25))

    assert_same(RECORDS.state(held([first, second])), state([first]))
    assert_same(merged(state([first]), state([second]), CAPACITY), state([first]))


def test_an_old_event_does_not_displace_newer_ones():
    full = held([Entry(number, "a", 100 + number, (1, 0.0)) for number in range(CAPACITY)])

    assert RECORDS.inserted(full, RECORDS.of(Entry(-1, "a", 5, (1, 0.0)), NOW_US)) == full


def test_rows_lack_what_happened_after_they_speak_from_and_what_came_late() -> None:
    """Of one event at 10, one at 20 and one at 30, all appended at NOW_US."""
    three = [Entry(number, "a", at, (1, 0.0)) for number, at in ((1, 10), (2, 20), (3, 30))]

    def lacking(as_of_us: int, filled_us: int) -> bytes:
        return RECORDS.since(held(three), Fill("x", as_of_us=as_of_us, filled_us=filled_us))

    assert lacking(20, NOW_US + 1) == held(three[1:])
    assert lacking(31, NOW_US + 1) == b""
    assert lacking(31, NOW_US) == held(three)  # filled before they came: ingest did not bring them
    assert lacking(-(1 << 63), NOW_US + 1) == held(three)


def test_records_of_an_older_release_are_taken_over() -> None:
    one = RECORDS.of(Entry(1, "a", 10, (100, 0.5)), NOW_US)

    assert RECORDS.of_former(one[:-8], NOW_US) == one
    assert RECORDS.former_name != RECORDS.name
