"""States from online answers: decoding, order, idempotence, and the speed of one row."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from fraud import features as f
from fraud import formulas, online
from fraud.features import VIEWS
from millrace.errors import SchemaMismatch
from millrace.inputs import Requests, States, recent
from millrace.instants import DAY_US
from millrace.lookup import columns_of, empty, recent_of, refreshed_of, states_of

CUSTOMERS, TERMINALS = VIEWS
NOW = 17_622 * DAY_US


def answer(length: int = 3, rows: int = 1) -> dict[str, list[Any]]:
    """What Feast gives for `rows` equal pairs of a customer and a terminal."""
    customer = {
        "transaction_ids": list(range(1, length + 1)),
        "event_us": [NOW - (length - i) * 1_000_000 for i in range(length)],
        "amount_cents": [100 * (i + 1) for i in range(length)],
        "terminal_risk": [0.25] * length,
    }
    terminal = {name: index for index, name in enumerate(formulas.TERMINAL_STATE_FIELDS)}
    return {name: [value] * rows for name, value in (customer | terminal).items()}


def inputs_of(response: dict[str, list[Any]], id_: int = 99, now: int = NOW, **lengths: int) -> tuple[Any, Any]:
    rows = len(response["event_us"])
    states = states_of(response, VIEWS)
    return online.model_inputs(
        requests(id_, now, rows), states, **{"history_length": 8, "sequence_length": 4} | lengths
    )


def requests(id_: int, now: int, rows: int = 1) -> Requests:
    """Of five units of money."""
    event_id, event_us, cents = (np.full(rows, value) for value in (id_, now, 500))
    return Requests(event_id, event_us, {"customer": ["c"] * rows, "terminal": ["t"] * rows}, {"amount": cents})


def test_unknown_entities_become_empty_states_and_zeros() -> None:
    response = {name: [None] for name in (*formulas.CUSTOMER_STATE_FIELDS, *formulas.TERMINAL_STATE_FIELDS)}

    features, history = inputs_of(response)

    value = dict(zip(f.FEATURE_NAMES, features[0], strict=True))
    assert not history.any()
    assert (value["customer_history_count"], value["customer_amount_ratio"], value["terminal_risk_30d"]) == (0, 1, 0)
    assert (value["customer_days_since_last"], value["terminal_days_since_fraud"]) == (60, 60)


def test_an_answer_without_a_column_is_refused_by_name() -> None:
    with pytest.raises(SchemaMismatch, match="'event_us'"):
        recent_of({name: [None] for name in formulas.CUSTOMER_STATE_FIELDS if name != "event_us"}, CUSTOMERS)


def test_the_newest_transaction_is_last_and_padding_comes_first() -> None:
    _, history = inputs_of(answer(length=3))

    amount, present = history[0, :, 0], history[0, :, 3]
    assert amount.tolist() == [0, 1, 2, 3]
    assert present.tolist() == [0, 1, 1, 1]


def test_a_state_longer_than_the_models_history_loses_its_oldest_entries() -> None:
    features, _ = inputs_of(answer(length=6), history_length=4)

    assert features[0, f.FEATURE_NAMES.index("customer_history_count")] == 4
    assert features[0, f.FEATURE_NAMES.index("customer_mean_amount")] == pytest.approx(np.mean([3, 4, 5, 6]))


def test_a_late_request_sees_only_what_came_before_it() -> None:
    features, history = inputs_of(answer(length=3), now=NOW - 2_000_000, id_=2)

    assert features[0, f.FEATURE_NAMES.index("customer_history_count")] == 1
    assert history[0, -1, 0] == 1


def test_scoring_a_transaction_again_sees_the_history_before_it() -> None:
    first, _ = inputs_of(answer(length=3), id_=50)
    state = recent_of(answer(length=3), CUSTOMERS)[0].append(50, NOW, (500, 0.5), 8)
    later = state.append(51, NOW + 1, (700, 0.5), 8)
    terminals = refreshed_of(answer(), TERMINALS)

    states = States({CUSTOMERS.name: [later]}, {TERMINALS.name: terminals})
    again, _ = online.model_inputs(requests(50, NOW), states, history_length=8, sequence_length=4)

    assert np.array_equal(first, again)


def test_appending_twice_leaves_one_trace() -> None:
    state = empty(CUSTOMERS).append(7, NOW, (100, 0.0), 4)

    assert state.append(7, NOW + 5, (900, 0.0), 4) is state


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
def test_a_state_is_in_order_however_its_transactions_arrive(order: tuple[int, ...]) -> None:
    """Ties in time are ordered by id; with room for all, the order of arrival leaves no trace."""
    times = (NOW, NOW + 1, NOW + 1, NOW + 1, NOW + 2)
    state = empty(CUSTOMERS)
    for id_ in order:
        state = state.append(id_, times[id_], (id_ * 100, id_ / 10), 5)

    assert state.event_ids.tolist() == [0, 1, 2, 3, 4]
    assert state.event_us.tolist() == list(times)


def test_a_transaction_older_than_a_full_state_is_dropped() -> None:
    state = recent_of(answer(length=3), CUSTOMERS)[0]

    assert state.append(9, NOW - 10**9, (1, 0.0), 3).event_ids.tolist() == [1, 2, 3]


def test_a_state_goes_to_the_push_source_and_comes_back() -> None:
    state = recent_of(answer(length=3), CUSTOMERS)[0]

    columns = columns_of({"c": state}, CUSTOMERS, "customer_id")

    assert columns["customer_id"] == ["c"]
    assert columns["event_timestamp"][0].timestamp() * 1e6 == state.event_us[-1]
    again = recent_of({name: [list(columns[name][0])] for name in formulas.CUSTOMER_STATE_FIELDS}, CUSTOMERS)[0]
    assert all(np.array_equal(left, right) for left, right in zip(again.arrays(), state.arrays(), strict=True))


def test_one_row_takes_less_than_a_third_of_a_millisecond_of_cpu() -> None:
    """Lists of 64 decoded included; the best of many, since the machine is shared."""
    response, best = answer(length=64), float("inf")
    for _ in range(300):
        start = time.thread_time()
        inputs_of(response, history_length=64, sequence_length=32)
        best = min(best, time.thread_time() - start)

    assert best < 300e-6


def test_padding_never_falls_into_a_window() -> None:
    state = recent(*(np.array([value], kind) for value, kind in ((1, "i8"), (NOW, "i8"), (100, "i8"), (0.5, "f4"))))

    totals = formulas.history_totals(np.array([NOW + 1]), online.padded([state], 8))

    assert totals.window_count.tolist() == [[1, 1, 1]]
    assert totals.count.tolist() == [1]


def test_features_are_named_once_each_and_in_the_order_of_their_values() -> None:
    features, _ = inputs_of(answer(length=3))

    assert len(set(f.FEATURE_NAMES)) == len(f.FEATURE_NAMES) == features.shape[1]
    value = dict(zip(f.FEATURE_NAMES, features[0].tolist(), strict=True))
    state = {name: index for index, name in enumerate(formulas.TERMINAL_STATE_FIELDS)}
    assert value["amount"] == 5
    assert value["customer_mean_amount"] == pytest.approx(2)
    assert value["customer_max_amount"] == 3
    assert value["customer_amount_zscore"] == pytest.approx(3)  # the spread counts as 1 at least
    assert value["terminal_labelled_14d"] == state["labelled_14d"]
    assert value["terminal_risk_14d"] == pytest.approx(state["fraud_14d"] / state["labelled_14d"])
    assert value["terminal_fraud_streak"] == state["fraud_streak"]
