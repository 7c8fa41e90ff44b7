"""What a request for a score may say, and how a refusal reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import InvalidInput
from millrace.installed import load
from millrace.requests import RequestFormat

FORMAT = RequestFormat.of(load("fraud"), strict=True)
from_rows = FORMAT.from_rows


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "transaction_id": 1,
        "event_timestamp": "2018-09-30T12:00:00Z",
        "customer_id": "596",
        "terminal_id": "3156",
        "amount": 12.5,
    }
    return {name: value for name, value in (base | changes).items() if value is not ...}


def test_a_good_row_becomes_exact_integers():
    found = from_rows([row(amount=0.29)], now_us=0)

    assert found.event_id.tolist() == [1]
    assert found.event_us.tolist() == [1_538_308_800_000_000]
    assert found.values["amount"].tolist() == [29]
    assert found.keys == {"customer": ["596"], "terminal": ["3156"]}


def test_an_offset_is_honoured_and_a_missing_time_is_now():
    shifted = from_rows([row(event_timestamp="2018-09-30T14:00:00.000001+02:00")], now_us=0)
    absent = from_rows([row(event_timestamp=...), row(transaction_id=2, event_timestamp=None)], now_us=7)

    assert shifted.event_us.tolist() == [1_538_308_800_000_001]
    assert absent.event_us.tolist() == [7, 7]


def test_ids_that_are_numbers_mean_their_digits_as_at_ingest():
    found = from_rows([row(customer_id=596, terminal_id=3156.0), row(transaction_id=2, customer_id=" 596 ")], now_us=0)

    assert found.keys["customer"] == ["596", "596"]
    assert found.keys["terminal"][0] == "3156"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transaction_id": ...}, "row 0: field 'transaction_id' is missing"),
        ({"transaction_id": " "}, "field 'transaction_id' is ' '; wanted a whole number of 64 bits, or text"),
        ({"transaction_id": True}, "field 'transaction_id' is True"),
        ({"transaction_id": 2**63}, "field 'transaction_id' is 9223372036854775808"),
        ({"transaction_id": None}, "field 'transaction_id' is None"),
        ({"event_timestamp": "2018-09-30 12:00"}, "of no time zone; wanted ISO 8601 with an offset"),
        ({"event_timestamp": "yesterday"}, "field 'event_timestamp' is 'yesterday'; wanted ISO 8601"),
        ({"event_timestamp": 1538308800}, "field 'event_timestamp' is 1538308800"),
        ({"event_timestamp": "1969-12-31T23:59:59Z"}, "wanted a year from 1970 to 2199"),
        ({"event_timestamp": "9999-12-31T23:59:59Z"}, "wanted a year from 1970 to 2199"),
        ({"amount": -0.01}, "field 'amount' is -0.01; wanted a number from 0"),
        ({"amount": float("nan")}, "field 'amount' is nan"),
        ({"amount": float("inf")}, "field 'amount' is inf"),
        ({"amount": 10**400}, "field 'amount' is 1000"),
        ({"amount": "12.50"}, "field 'amount' is '12.50'"),
        ({"amount": False}, "field 'amount' is False"),
        ({"amount": 1.005}, "wanted at most two decimals"),
        ({"terminal_id": ""}, "field 'terminal_id' is ''"),
        ({"terminal_id": ["3156"]}, "field 'terminal_id' is \\['3156'\\]"),
        ({"terminal_id": "a\nb"}, "field 'terminal_id'"),
        ({"terminal_id": "x" * 200}, "field 'terminal_id'"),
        ({"customer_id": None}, "field 'customer_id' is a NoneType that is no id"),
        ({"is_fraud": 0}, "row 0: unknown field 'is_fraud'; wanted transaction_id"),
    ],
)
def test_a_refusal_names_row_field_got_and_wanted(changes, message):
    with pytest.raises(InvalidInput, match=message):
        from_rows([row(**changes)], now_us=0)


def test_a_customer_id_is_never_quoted():
    secret = "4111-1111-1111-1111\n"

    with pytest.raises(InvalidInput) as caught:
        from_rows([row(customer_id=f"{secret} \x00")], now_us=0)

    assert "4111" not in str(caught.value)


def test_the_row_is_counted_from_zero_and_a_repeated_transaction_refused():
    with pytest.raises(InvalidInput, match="row 1: field 'amount'"):
        from_rows([row(), row(transaction_id=2, amount=-1)], now_us=0)
    with pytest.raises(InvalidInput, match="'transaction_id' has a value twice"):
        from_rows([row(), row()], now_us=0)
    with pytest.raises(InvalidInput, match="row 0 is 5; wanted an object"):
        from_rows([5], now_us=0)


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)


@given(st.dictionaries(st.sampled_from(FORMAT.names) | st.text(max_size=3), anything))
def test_any_object_is_a_transaction_or_a_refusal(item):
    """No value of any field makes anything but an InvalidInput; what passes is finite and not negative."""
    try:
        found = from_rows([item], now_us=0)
    except InvalidInput:
        return
    assert found.values["amount"].dtype == np.int64
    assert found.values["amount"][0] >= 0
