"""Batch features: transactions in, totals of every history and the state of every terminal on every day out.

DuckDB finds the windows and sums integers over them; the formulas that turn sums into features are those of
`features.py`, so both paths share them. What it works on is `stream.py`'s; which days are computed and where they are
written is `build_features`'.
"""

from __future__ import annotations

import inspect
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millrace.atomic import sha256_text
from millrace.fraud import features as f
from millrace.fraud import stream
from millrace.fraud.stream import Transactions

CHUNK_ROWS: Final = 4096
"""Frauds whose histories are gathered at a time."""


def definition_version(*modules: ModuleType) -> str:
    """Hash of the code that defines the features (and of `modules` that lay them out): a change is a new version."""
    return sha256_text(*(inspect.getsource(module) for module in (f, stream, sys.modules[__name__], *modules)))


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
    position, totals = customer_totals(connection, transactions, history_length, first_day * f.DAY_US)
    columns = (transactions.column(name)[position] for name in ("event_us", "amount_cents", "terminal"))
    now_us, amount_cents, terminal = columns
    customer = f.customer_features_of(now_us, amount_cents, totals)
    by_day = np.argsort(now_us // f.DAY_US, kind="stable")
    ends = np.searchsorted(now_us[by_day] // f.DAY_US, range(first_day, last_day + 1), side="right")
    states = terminal_states(connection, transactions, first_day, last_day)
    for (day, appeared, state), begin, end in zip(states, [0, *ends], ends, strict=False):
        rows = by_day[begin:end]
        now = now_us[rows]
        mine = state[terminal[rows], now % f.DAY_US * f.REFRESHES_PER_DAY // f.DAY_US]
        parts = [f.request_features(now, amount_cents[rows]), customer[rows], f.terminal_features(now, mine)]
        features = np.concatenate(parts, axis=1)
        yield DayFeatures(day, position[rows], features, f.terminal_risk(mine), appeared, state)


def customer_totals(
    connection: duckdb.DuckDBPyConnection,
    transactions: Transactions,
    history_length: int,
    first_us: int | None = None,
) -> tuple[NDArray[np.int64], f.HistoryTotals]:
    """Totals of the history of every transaction from `first_us` on (default: all).

    Returns their positions in `transactions`, ascending, and the totals in that order.
    """
    first_us = f.NEVER_US if first_us is None else first_us
    rows = _query(connection, transactions, customer_totals_sql(history_length), first_us)
    order = np.argsort(rows["position"], kind="stable")
    columns = {name: values[order] for name, values in rows.items()}
    windows = {
        name: np.stack([columns.pop(f"{name}_{days}d") for days in f.CUSTOMER_WINDOWS_DAYS], axis=1)
        for name in ("window_count", "window_cents")
    }
    return columns.pop("position"), f.HistoryTotals(**windows, **columns)


def customer_totals_sql(history_length: int) -> str:
    """One row per transaction from $1 on: what HistoryTotals holds.

    A history and each window in it are the rows directly before the transaction, so a window is known by how many
    rows it has: those before, less those at or before its start. Rows from before $1 are needed for the last N only.
    """
    counts = ", ".join(
        f"""least({history_length}, row_number() OVER history - 1 - count(*) OVER (
            PARTITION BY customer ORDER BY event_us RANGE BETWEEN UNBOUNDED PRECEDING AND {days * f.DAY_US} PRECEDING
        )) AS window_count_{days}d"""
        for days in f.CUSTOMER_WINDOWS_DAYS
    )
    sums = ", ".join(
        f"""window_count_{days}d,
            coalesce(sum(amount_cents) OVER (history ROWS BETWEEN window_count_{days}d PRECEDING AND 1 PRECEDING), 0)
                ::BIGINT AS window_cents_{days}d"""
        for days in f.CUSTOMER_WINDOWS_DAYS
    )
    return f"""
        WITH relevant AS (
            SELECT * FROM transactions WHERE event_us >= $1
            UNION ALL
            SELECT * FROM transactions WHERE event_us < $1
            QUALIFY row_number() OVER (PARTITION BY customer ORDER BY event_us DESC, transaction_id DESC)
                <= {history_length}
        ), counted AS (
            SELECT position, customer, event_us, transaction_id, amount_cents,
                least({history_length}, row_number() OVER history - 1) AS count, {counts}
            FROM relevant
            WINDOW history AS (PARTITION BY customer ORDER BY event_us, transaction_id)
        ), summed AS (
            SELECT position, event_us, {sums}, count,
                coalesce(sum(amount_cents) OVER last_n, 0) AS cents,
                coalesce(sum(amount_cents::HUGEINT * amount_cents) OVER last_n, 0) AS squares,
                coalesce(max(amount_cents) OVER last_n, 0) AS max_cents,
                coalesce(lag(event_us) OVER history, 0) AS last_us
            FROM counted
            WINDOW history AS (PARTITION BY customer ORDER BY event_us, transaction_id),
                last_n AS (history ROWS BETWEEN {history_length} PRECEDING AND 1 PRECEDING)
        )
        SELECT * EXCLUDE (event_us, cents, squares), cents::BIGINT AS cents,
            (count * squares - cents * cents)::DOUBLE / greatest(count * count, 1) AS variance
        FROM summed WHERE event_us >= $1
    """


def terminal_changes_sql() -> str:
    """One row per terminal and refresh at which something new is seen, up to refresh $1, in the order of refreshes.

    Refreshes are numbered from 1970 on. One sees the transactions of the days before its own, so that a day's states do
    not depend on the day, and those of their labels that became known before it. `streak`, its start and its least
    ratio are those after the newest label, and mean nothing without a new one.
    """
    per_day = f.REFRESHES_PER_DAY
    midnight = f"(event_us // {f.DAY_US} + 1) * {per_day}"
    return f"""
        WITH known AS (
            SELECT *, greatest(label_us // {f.DAY_US // per_day} + 1, {midnight}) AS refresh
            FROM transactions WHERE label_us IS NOT NULL AND is_fraud IS NOT NULL
        ), labels AS (
            SELECT terminal, refresh, is_fraud, event_us, amount_ratio,
                row_number() OVER (PARTITION BY terminal ORDER BY refresh, label_us, transaction_id) AS place
            FROM known
        ), streaks AS (
            SELECT *, place - coalesce(max(place) FILTER (is_fraud = 0) OVER (
                PARTITION BY terminal ORDER BY place ROWS UNBOUNDED PRECEDING
            ), 0) AS streak
            FROM labels
        ), started AS (
            SELECT terminal, place, min(event_us) OVER streak AS streak_start_us,
                min(amount_ratio) OVER streak AS least_ratio
            FROM streaks WHERE is_fraud = 1
            WINDOW streak AS (PARTITION BY terminal, place - streak ORDER BY place ROWS UNBOUNDED PRECEDING)
        ), revealed AS (
            SELECT terminal, refresh, count(*) AS labels, sum(is_fraud)::BIGINT AS frauds, max(place) AS place,
                arg_max(streak, place) AS streak, max(event_us) FILTER (is_fraud = 1) AS last_fraud_us
            FROM streaks WHERE refresh <= $1 GROUP BY ALL
        ), happened AS (
            SELECT terminal, {midnight} AS refresh, count(*) AS transactions
            FROM transactions WHERE refresh <= $1 GROUP BY ALL
        )
        SELECT terminal, refresh, coalesce(transactions, 0) AS transactions, coalesce(labels, 0) AS labels,
            coalesce(frauds, 0) AS frauds, coalesce(streak, -1) AS streak,
            coalesce(streak_start_us, 0) AS streak_start_us, coalesce(last_fraud_us, 0) AS last_fraud_us,
            coalesce(least_ratio, 0) AS least_ratio
        FROM happened FULL JOIN revealed USING (terminal, refresh) LEFT JOIN started USING (terminal, place)
        ORDER BY refresh
    """


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
    per_day = f.REFRESHES_PER_DAY
    ratios = amount_ratios(transactions) if ratios is None else ratios
    changes = _query(connection, transactions, terminal_changes_sql(), (last_day + 1) * per_day - 1, ratios)
    start = int(changes["refresh"][0]) // per_day if len(changes["refresh"]) else first_day
    days = range(min(start, first_day), last_day + 1)
    ends = np.searchsorted(changes["refresh"], range(days[0] * per_day, (last_day + 1) * per_day), side="right")
    totals = np.zeros((3, len(transactions.terminals)), np.int64)  # transactions, labels, frauds since the beginning
    streak, streak_start_us, last_fraud_us, least_ratio = (np.zeros_like(totals[0]) for _ in range(4))
    longest = max(f.TERMINAL_VOLUME_WINDOWS_DAYS + f.TERMINAL_LABEL_WINDOWS_DAYS)
    past = deque([totals.copy()], maxlen=longest * per_day + 1)
    begin, states = 0, []
    for number, end in enumerate(ends):
        new = {name: values[begin:end] for name, values in changes.items()}
        at, begin = new["terminal"], end
        totals[:, at] += np.stack([new["transactions"], new["labels"], new["frauds"]])
        told = new["labels"] > 0
        streak[at] = np.where(told, new["streak"], streak[at])
        streak_start_us[at] = np.where(told, new["streak_start_us"], streak_start_us[at])
        least_ratio[at] = np.where(told, new["least_ratio"], least_ratio[at])
        last_fraud_us[at] = np.maximum(last_fraud_us[at], new["last_fraud_us"])
        past.append(totals.copy())
        day = days[number // per_day]
        if day < first_day:
            continue
        states.append(_terminal_state(past, streak, streak_start_us, last_fraud_us, least_ratio))
        if len(states) == per_day:
            yield day, totals[0] > 0, np.stack(states, axis=1)
            states = []


def amount_ratios(transactions: Transactions) -> NDArray[np.int64]:
    """[T] `amount_ratio` of every fraud at the time it happened, 0 for the rest: what a terminal's streak remembers."""
    ids, event_us, cents, customer = (
        transactions.column(name) for name in ("transaction_id", "event_us", "amount_cents", "customer")
    )
    order = np.lexsort((ids, event_us, customer))
    fraud = np.flatnonzero(pc.fill_null(transactions.table["is_fraud"], 0).to_numpy()[order] == 1)
    starts = np.searchsorted(customer[order], customer[order[fraud]])
    ratios = np.zeros(len(order), np.int64)
    event_us, cents = event_us[order], cents[order]
    for part in np.array_split(np.arange(len(fraud)), len(fraud) // CHUNK_ROWS + 1):
        states = f.states_before(fraud[part], starts[part], f.RATIO_HISTORY, event_us, cents)
        ratios[order[fraud[part]]] = f.amount_ratio(cents[fraud[part]], states)
    return ratios


def _terminal_state(past: Sequence[NDArray[np.int64]], *latest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Totals as of each refresh, the newest last, and what needs no window → the columns of TERMINAL_STATE_FIELDS."""
    now, oldest = past[-1], len(past) - 1
    happened, labelled, fraud = range(3)
    windows = [(happened, days) for days in f.TERMINAL_VOLUME_WINDOWS_DAYS]
    windows += [(kind, days) for kind in (labelled, fraud) for days in f.TERMINAL_LABEL_WINDOWS_DAYS]
    back = {days: -1 - min(days * f.REFRESHES_PER_DAY, oldest) for _, days in windows}
    return np.stack([*(now[kind] - past[back[days]][kind] for kind, days in windows), *latest], 1)


def _query(
    connection: duckdb.DuckDBPyConnection,
    transactions: Transactions,
    sql: str,
    parameter: int,
    ratios: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    table = transactions.table
    if ratios is not None:
        table = table.append_column("amount_ratio", pa.array(ratios))
    connection.register("transactions", table)
    table = connection.sql(sql, params=[parameter]).to_arrow_table()
    connection.unregister("transactions")
    return {name: table[name].to_numpy() for name in table.column_names}
