"""Sums over windows before a refresh, against the same sums counted one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millrace.features.windows import Windows, first_refresh
from millrace.instants import DAY_US

PER_DAY = 4
STEP_US = DAY_US // PER_DAY
COLUMNS = [("count", 1), ("count", 6), ("size", 3)]

events_strategy = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5 * PER_DAY * 2), st.integers(1, 9)), min_size=1, max_size=30
)


@given(events_strategy, st.integers(0, 6))
def test_every_state_of_a_day_is_the_sum_of_what_was_known_in_its_windows(
    events: list[tuple[int, int, int]], day: int
) -> None:
    entity, half_steps, size = (np.array(column, np.int64) for column in zip(*events, strict=True))
    known_us = half_steps * STEP_US // 2
    windows = Windows(entity, known_us, {"count": np.ones_like(size), "size": size}, PER_DAY)

    states = windows.day(day, COLUMNS)

    for code in range(4):
        for refresh in range(PER_DAY):
            now_us = day * DAY_US + refresh * STEP_US
            found = states.at(np.array([code]), np.array([now_us]))[0].tolist()
            wanted = []
            for measure, length in COLUMNS:
                inside = (entity == code) & (known_us < now_us) & (known_us >= now_us - length * STEP_US)
                wanted.append(int(inside.sum() if measure == "count" else size[inside].sum()))
            assert found == wanted


@given(events_strategy)
def test_every_entity_of_a_day_begins_at_midnight(events: list[tuple[int, int, int]]) -> None:
    entity, half_steps, size = (np.array(column, np.int64) for column in zip(*events, strict=True))
    windows = Windows(entity, half_steps * STEP_US // 2, {"count": np.ones_like(size), "size": size}, PER_DAY)

    states = windows.day(2, COLUMNS)

    assert (np.diff(states.key) > 0).all()
    for code in np.unique(states.entity):
        assert states.refresh[states.entity == code][0] == 0


def test_what_becomes_known_at_a_refresh_is_seen_by_the_next() -> None:
    instants = np.array([STEP_US - 1, STEP_US, STEP_US + 1])

    assert first_refresh(instants, PER_DAY).tolist() == [1, 2, 2]
