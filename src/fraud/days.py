"""Features and the state of every terminal, a day at a time, from all transactions at once.

DuckDB puts rows into the order in which they are looked back on. Integers are summed over them in NumPy, by
`histories.py` and `terminals.py`; the formulas that turn sums into features are those of `features.py`, so both paths
share them. How transactions are read and where days are written is the platform's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud import features as f
from fraud import formulas, schema
from fraud import histories as h
from fraud.histories import ByCustomer
from fraud.terminals import Happened, Labels, Terminals
from millrace.features.days import DayFeatures, DayStates, Events
from millrace.features.events import as_events
from millrace.instants import DAY_US

HISTORIES_SQL: Final = """
    SELECT position, customer, event_us, amount_cents, coalesce(is_fraud = 1, false) AS fraud
    FROM transactions ORDER BY customer, event_us, transaction_id
"""


def events(rows: pa.Table) -> Events:
    """`rows` as schema.EVENTS, or with `amount_cents` instead of `amount`."""
    cents = rows["amount_cents"] if "amount_cents" in rows.column_names else cents_of(rows["amount"])
    return as_events(rows, schema, {"amount_cents": cents})


def cents_of(amount: pa.ChunkedArray) -> pa.ChunkedArray:
    """decimal(12, 2) → int64 cents, exact."""
    return pc.multiply(amount, pa.scalar(100, pa.decimal128(3, 0))).cast(pa.int64())


def daily(
    connection: duckdb.DuckDBPyConnection, events: Events, history_length: int, first_day: int, last_day: int
) -> Iterator[DayFeatures]:
    """Every day from first_day to last_day (days since 1970), with or without transactions.

    Earlier transactions count as history only; none may be later than last_day.
    """
    ordered = histories(connection, events)
    customer = h.customer_features(ordered, history_length, first_day * DAY_US)
    ratios = h.amount_ratios(ordered)
    del ordered
    now_us, amount_cents, terminal = (events.column(name) for name in ("event_us", "amount_cents", "terminal"))
    by_day, ends = _steps(now_us // DAY_US, range(first_day - 1, last_day + 1))
    days = terminal_states(connection, events, first_day, last_day, ratios)

    for states, (begin, end) in zip(days, pairwise(ends), strict=True):
        rows = by_day[begin:end]
        now = now_us[rows]
        cents = amount_cents[rows]
        mine = states.at(terminal[rows], now)
        parts = [formulas.request_features(now, cents), customer[rows], formulas.terminal_features(now, mine)]
        remembered = {"amount_cents": cents, "terminal_risk": formulas.terminal_risk(mine)}
        yield DayFeatures(rows, np.concatenate(parts, axis=1), remembered, {"terminal_state": states})


def histories(connection: duckdb.DuckDBPyConnection, events: Events) -> ByCustomer:
    """All transactions in the order of their customers' histories."""
    rows = _query(connection, events, HISTORIES_SQL)
    new = np.diff(rows.pop("customer"), prepend=-1) != 0
    return ByCustomer(start=np.maximum.accumulate(np.where(new, np.arange(len(new)), 0)), **rows)


def terminal_states(
    connection: duckdb.DuckDBPyConnection,
    events: Events,
    first_day: int,
    last_day: int,
    ratios: NDArray[np.int64] | None = None,
) -> Iterator[DayStates]:
    """The terminals on every day first_day … last_day (days since 1970).

    `ratios[T]` are `amount_ratios` of the transactions, where these are not whole histories of their customers.
    """
    ratios = h.amount_ratios(histories(connection, events)) if ratios is None else ratios
    day = events.column("event_us") // DAY_US
    terminal = events.column("terminal")
    by_day = np.argsort(day, kind="stable")
    happened = Happened((day[by_day] + 1) * f.REFRESHES_PER_DAY, terminal[by_day])

    rows = _query(connection, events, labels_sql())
    labels = Labels(ratio=ratios[rows.pop("position")], **rows)
    known = Terminals(len(events.ids["terminal"]), happened, labels, first_day)

    for _ in range(first_day, last_day + 1):
        yield known.next_day()


def labels_sql() -> str:
    """Labels in the order of revelation, with the first refresh that sees them.

    Refreshes are numbered from 1970 on. One sees the transactions of the days before its own, so that a day's states do
    not depend on the day, and those of their labels that became known before it.
    """
    per_day = f.REFRESHES_PER_DAY
    return f"""
        SELECT position, terminal, is_fraud = 1 AS fraud, event_us,
            greatest(label_us // {DAY_US // per_day} + 1, (event_us // {DAY_US} + 1) * {per_day}) AS refresh
        FROM transactions WHERE label_us IS NOT NULL AND is_fraud IS NOT NULL
        ORDER BY refresh, label_us, transaction_id
    """


def _steps(values: NDArray[np.int64], limits: range) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order that sorts `values`, rows of a kind as they were, and how many of them reach up to each limit."""
    order = np.argsort(values, kind="stable")
    return order, np.searchsorted(values[order], limits, side="right")


def _query(connection: duckdb.DuckDBPyConnection, events: Events, sql: str) -> dict[str, NDArray[Any]]:
    connection.register("transactions", events.table)
    table = connection.sql(sql).to_arrow_table()
    connection.unregister("transactions")
    return {name: table[name].to_numpy() for name in table.column_names}
