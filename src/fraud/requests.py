"""A transaction as a request: what fields it has, and how a batch of them is checked before anything is looked up.

Every refusal names the row, the field, what it got and what was wanted. Values are quoted, except customer ids: they
never reach a log or an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from millrace.pseudonyms import canonical

FIELDS: Final = ("transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount")
OPTIONAL: Final = frozenset({"event_timestamp"})
"""Without an event_timestamp a transaction happens now."""

MAX_AMOUNT: Final = 9_999_999_999.99
"""The largest amount of the raw schema, decimal(12, 2)."""
MAX_ID_LENGTH: Final = 128

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
_INT64: Final = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True)
class Transactions:
    """B checked requests as columns. `customer_id` is as the client sent it: pseudonymise before use."""

    transaction_id: NDArray[np.int64]  # [B], no value twice
    event_us: NDArray[np.int64]  # [B]
    customer_id: list[str]
    terminal_id: list[str]
    amount_cents: NDArray[np.int64]  # [B], ≥ 0

    def __len__(self) -> int:
        return len(self.customer_id)


def from_rows(rows: Sequence[Any], now_us: int) -> Transactions:
    """One object per transaction → Transactions; without event_timestamp it is dated `now_us`. Raises InvalidInput."""
    for row, item in enumerate(rows):
        if not isinstance(item, Mapping):
            raise InvalidInput(f"row {row} is {_show(item)}; wanted an object with {', '.join(FIELDS)}")
        _require_fields(row, item)
    return from_columns({name: [item.get(name) for item in rows] for name in FIELDS}, now_us)


def from_columns(columns: Mapping[str, Sequence[Any]], now_us: int) -> Transactions:
    """One list per field → Transactions; a missing event_timestamp is None. Raises InvalidInput."""
    ids = _each(columns, "transaction_id", _transaction_id)
    if len(set(ids)) < len(ids):
        raise InvalidInput("field 'transaction_id' has a value twice in one request; wanted each transaction once")
    times = columns.get("event_timestamp") or [None] * len(ids)
    return Transactions(
        np.array(ids, np.int64),
        np.array([now_us if value is None else _event_us(row, value) for row, value in enumerate(times)], np.int64),
        _each(columns, "customer_id", _customer_id),
        _each(columns, "terminal_id", _terminal_id),
        np.array(_each(columns, "amount", _cents), np.int64),
    )


def _require_fields(row: int, item: Mapping[str, Any]) -> None:
    unknown = sorted(str(name) for name in item.keys() - set(FIELDS))
    if unknown:
        raise InvalidInput(f"row {row}: unknown field {unknown[0]!r}; wanted {', '.join(FIELDS)}")
    missing = [name for name in FIELDS if name not in item and name not in OPTIONAL]
    if missing:
        raise InvalidInput(f"row {row}: field {missing[0]!r} is missing")


def _each(columns: Mapping[str, Sequence[Any]], name: str, check: Callable[[int, Any], Any]) -> list[Any]:
    return [check(row, value) for row, value in enumerate(columns[name])]


def _transaction_id(row: int, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not _INT64.min <= value <= _INT64.max:
        raise InvalidInput(f"row {row}: field 'transaction_id' is {_show(value)}; wanted a whole number of 64 bits")
    return int(value)


def _event_us(row: int, value: Any) -> int:
    wanted = "wanted ISO 8601 with an offset, like 2018-09-30T12:00:00Z"
    try:
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"row {row}: field 'event_timestamp' is {_show(value)}; {wanted}") from error
    if when.tzinfo is None:
        raise InvalidInput(f"row {row}: field 'event_timestamp' is {_show(value)}, of no time zone; {wanted}")
    if not _EPOCH <= when < _LATEST:
        raise InvalidInput(f"row {row}: field 'event_timestamp' is {_show(value)}; wanted a year from 1970 to 2199")
    return (when - _EPOCH) // timedelta(microseconds=1)


def _cents(row: int, value: Any) -> int:
    if type(value) not in (int, float) or not 0 <= value <= MAX_AMOUNT:
        raise InvalidInput(f"row {row}: field 'amount' is {_show(value)}; wanted a number from 0 to {MAX_AMOUNT}")
    cents: int = round(value * 100)
    if abs(value * 100 - cents) > 1e-4:
        raise InvalidInput(f"row {row}: field 'amount' is {_show(value)}; wanted at most two decimals")
    return cents


def _customer_id(row: int, value: Any) -> str:
    if (text := _id(value)) is None:
        got = "empty" if value == "" else f"a {type(value).__name__} that is no id"
        raise InvalidInput(f"row {row}: field 'customer_id' is {got}; wanted text of 1 to {MAX_ID_LENGTH} characters")
    return text


def _terminal_id(row: int, value: Any) -> str:
    if (text := _id(value)) is None:
        wanted = f"wanted text of 1 to {MAX_ID_LENGTH} characters"
        raise InvalidInput(f"row {row}: field 'terminal_id' is {_show(value)}; {wanted}")
    return text


def _id(value: Any) -> str | None:
    """Ids are text, without surrounding blanks; a whole number stands for its decimal digits, as at ingest."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return None
    text = canonical(value)
    return text if 0 < len(text) <= MAX_ID_LENGTH and text.isprintable() else None


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
