"""Batch features: transactions in, features and the state of every terminal out, a day at a time.

DuckDB puts rows into the order in which they are looked back on. Integers are summed over them in NumPy, by
`histories.py` and `terminals.py`; the formulas that turn sums into features are those of `features.py`, so both paths
share them. Which days are computed and where they are written is `build_features`'.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any, Final

import duckdb
import numpy as np
from numpy.typing import NDArray

from fraud import features as f
from fraud import histories as h
from fraud import stream, terminals
from fraud.histories import Histories
from fraud.stream import Transactions
from fraud.terminals import DayStates, Events, Labels, Terminals
from millrace.lake.atomic import sha256_text

HISTORIES_SQL: Final = """
    SELECT position, customer, event_us, amount_cents, coalesce(is_fraud = 1, false) AS fraud
    FROM transactions ORDER BY customer, event_us, transaction_id
"""


def definition_version(*modules: ModuleType) -> str:
    """Hash of the code that defines the features (and of `modules` that lay them out): a change is a new version."""
    return sha256_text(
        *(inspect.getsource(module) for module in (f, h, terminals, stream, sys.modules[__name__], *modules))
    )


@dataclass(frozen=True, slots=True)
class DayFeatures:
    """One day's transactions with their features, and the terminals from one of its refreshes to the next."""

    position: NDArray[np.int64]
    """[B] places of the day's transactions in `Transactions`, ascending."""
    features: NDArray[np.float32]
    """[B, F] in the order of FEATURE_NAMES."""
    terminal_risk: NDArray[np.float32]
    """[B], what a customer's history remembers."""
    terminals: DayStates


def daily_features(
    connection: duckdb.DuckDBPyConnection,
    transactions: Transactions,
    history_length: int,
    first_day: int,
    last_day: int,
) -> Iterator[DayFeatures]:
    """Every day from first_day to last_day (days since 1970), with or without transactions.

    Earlier transactions count as history only; none may be later than last_day.
    """
    ordered = histories(connection, transactions)
    customer = h.customer_features(ordered, history_length, first_day * f.DAY_US)
    ratios = h.amount_ratios(ordered)
    del ordered
    now_us, amount_cents, terminal = (transactions.column(name) for name in ("event_us", "amount_cents", "terminal"))
    by_day, ends = _steps(now_us // f.DAY_US, range(first_day - 1, last_day + 1))
    days = terminal_states(connection, transactions, first_day, last_day, ratios)
    for states, (begin, end) in zip(days, pairwise(ends), strict=True):
        rows = by_day[begin:end]
        now = now_us[rows]
        mine = states.at(terminal[rows], now)
        parts = [f.request_features(now, amount_cents[rows]), customer[rows], f.terminal_features(now, mine)]
        yield DayFeatures(rows, np.concatenate(parts, axis=1), f.terminal_risk(mine), states)


def histories(connection: duckdb.DuckDBPyConnection, transactions: Transactions) -> Histories:
    """All transactions in the order of their customers' histories."""
    rows = _query(connection, transactions, HISTORIES_SQL)
    new = np.diff(rows.pop("customer"), prepend=-1) != 0
    return Histories(start=np.maximum.accumulate(np.where(new, np.arange(len(new)), 0)), **rows)


def terminal_states(
    connection: duckdb.DuckDBPyConnection,
    transactions: Transactions,
    first_day: int,
    last_day: int,
    ratios: NDArray[np.int64] | None = None,
) -> Iterator[DayStates]:
    """The terminals on every day first_day … last_day (days since 1970).

    `ratios[T]` are `amount_ratios` of the transactions, where these are not whole histories of their customers.
    """
    ratios = h.amount_ratios(histories(connection, transactions)) if ratios is None else ratios
    day, terminal = transactions.column("event_us") // f.DAY_US, transactions.column("terminal")
    by_day = np.argsort(day, kind="stable")
    happened = Events((day[by_day] + 1) * f.REFRESHES_PER_DAY, terminal[by_day])
    rows = _query(connection, transactions, labels_sql())
    labels = Labels(ratio=ratios[rows.pop("position")], **rows)
    known = Terminals(len(transactions.terminals), happened, labels, first_day)
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
            greatest(label_us // {f.DAY_US // per_day} + 1, (event_us // {f.DAY_US} + 1) * {per_day}) AS refresh
        FROM transactions WHERE label_us IS NOT NULL AND is_fraud IS NOT NULL
        ORDER BY refresh, label_us, transaction_id
    """


def _steps(values: NDArray[np.int64], limits: range) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order that sorts `values`, rows of a kind as they were, and how many of them reach up to each limit."""
    order = np.argsort(values, kind="stable")
    return order, np.searchsorted(values[order], limits, side="right")


def _query(connection: duckdb.DuckDBPyConnection, transactions: Transactions, sql: str) -> dict[str, NDArray[Any]]:
    connection.register("transactions", transactions.table)
    table = connection.sql(sql).to_arrow_table()
    connection.unregister("transactions")
    return {name: table[name].to_numpy() for name in table.column_names}
