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

from millrace.atomic import sha256_text
from millrace.fraud import features as f
from millrace.fraud import histories as h
from millrace.fraud import stream, terminals
from millrace.fraud.histories import Histories
from millrace.fraud.stream import Transactions
from millrace.fraud.terminals import LONGEST_WINDOW_DAYS, Terminals

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
    """One day's transactions with their features, and the terminals as of each of the day's refreshes."""

    day: int
    """Days since 1970."""
    position: NDArray[np.int64]
    """[B] places of the day's transactions in `Transactions`, ascending."""
    features: NDArray[np.float32]
    """[B, F] in the order of FEATURE_NAMES."""
    terminal_risk: NDArray[np.float32]
    """[B], what a customer's history remembers."""
    appeared: NDArray[np.bool_]
    """[T] terminals that had a transaction before the day."""
    terminal_state: NDArray[np.int64]
    """[T, R, S] at each of the day's R refreshes, in the order of TERMINAL_STATE_FIELDS; zeros for those without."""


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
    states = terminal_states(connection, transactions, first_day, last_day, ratios)
    for (day, appeared, state), (begin, end) in zip(states, pairwise(ends), strict=True):
        rows = by_day[begin:end]
        now = now_us[rows]
        mine = state[terminal[rows], now % f.DAY_US * f.REFRESHES_PER_DAY // f.DAY_US]
        parts = [f.request_features(now, amount_cents[rows]), customer[rows], f.terminal_features(now, mine)]
        yield DayFeatures(day, rows, np.concatenate(parts, axis=1), f.terminal_risk(mine), appeared, state)


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
) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.int64]]]:
    """For every day first_day … last_day (days since 1970): the day, which terminals have appeared before it, and
    `state[terminals, REFRESHES_PER_DAY, len(TERMINAL_STATE_FIELDS)]`, zeros for those that have not.

    `ratios[T]` are `amount_ratios` of the transactions, where these are not whole histories of their customers.
    """
    ratios = h.amount_ratios(histories(connection, transactions)) if ratios is None else ratios
    per_day, terminal = f.REFRESHES_PER_DAY, transactions.column("terminal")
    # The first step is everything before the windows of the first day.
    refreshes = range((first_day - LONGEST_WINDOW_DAYS) * per_day, (last_day + 1) * per_day)
    by_refresh, happened = _steps((transactions.column("event_us") // f.DAY_US + 1) * per_day, refreshes)
    labels = _query(connection, transactions, labels_sql())
    _, revealed = _steps(labels.pop("refresh"), refreshes)
    labels["ratio"] = ratios[labels.pop("position")]
    known = Terminals(len(transactions.terminals))
    by_field = np.empty((per_day, len(f.TERMINAL_STATE_FIELDS), len(transactions.terminals)), np.int64)
    seen, told = [0, *happened], [0, *revealed]
    for number, refresh in enumerate(refreshes):
        new = {name: values[told[number] : told[number + 1]] for name, values in labels.items()}
        known.step(terminal[by_refresh[seen[number] : seen[number + 1]]], **new)
        day, place = divmod(refresh, per_day)
        if day >= first_day:
            known.write(by_field[place])
            if place == per_day - 1:
                yield day, known.appeared, _by_terminal(by_field)


def _by_terminal(by_field: NDArray[np.int64]) -> NDArray[np.int64]:
    """[R, S, T] → [T, R, S], a field's values side by side, as files want them."""
    state = np.empty(by_field.shape[1:] + by_field.shape[:1], np.int64)
    for place in range(len(state)):
        state[place] = by_field[:, place].T
    return np.moveaxis(state, 0, 2)


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
