"""Totals over sorted columns against the single-row path, where integers come near their limits."""

from __future__ import annotations

import numpy as np
import pytest

from fraud import formulas
from fraud.histories import ByCustomer, history_totals
from millrace.instants import DAY_US

ROWS = 400


@pytest.mark.parametrize("largest", [10**4, 10**8, 10**12])
@pytest.mark.parametrize("length", [1, 3, 64, 512])
def test_totals_are_those_of_the_single_row_path_however_large_the_amounts(largest: int, length: int) -> None:
    rng = np.random.default_rng(length)
    customer = np.sort(rng.integers(0, 3, ROWS))
    event_us = rng.integers(0, 60 * DAY_US, ROWS)
    event_us = event_us[np.lexsort((event_us, customer))]
    cents = rng.integers(0, largest, ROWS)
    start = np.searchsorted(customer, customer)
    histories = ByCustomer(np.arange(ROWS), start, event_us, cents, np.zeros(ROWS, bool))

    ((rows, totals),) = history_totals(histories, length)

    wanted = formulas.history_totals(event_us, histories.before(rows, length))
    assert np.array_equal(rows, np.arange(ROWS))
    for name in ("window_count", "window_cents", "count", "cents", "max_cents", "last_us"):
        assert np.array_equal(getattr(totals, name), getattr(wanted, name)), name
    np.testing.assert_allclose(totals.variance, wanted.variance, rtol=1e-9, atol=1e-3)


def test_only_what_happened_from_the_given_time_on_is_computed() -> None:
    event_us = np.array([0, 5, 9]) * DAY_US
    histories = ByCustomer(np.arange(3), np.zeros(3, np.int64), event_us, np.array([1, 2, 3]), np.zeros(3, bool))

    blocks = list(history_totals(histories, 64, first_us=5 * DAY_US))

    assert [rows.tolist() for rows, _ in blocks] == [[1, 2]]
    assert blocks[0][1].cents.tolist() == [1, 3]
