"""Batch features: transactions in, totals of every history and the state of every terminal on every day out.

DuckDB finds the windows and sums integers over them; the formulas that turn sums into features are those of
`features.py`, so both paths share them. Which days are computed and where they are written is `build_features`'.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from millrace.atomic import sha256_text
from millrace.fraud import features as f
from millrace.fraud.schema import TRANSACTION_SCHEMA


def definition_version(*modules: ModuleType) -> str:
    """Hash of the code that defines the features (and of `modules` that lay them out): a change is a new version."""
    return sha256_text(*(inspect.getsource(module) for module in (f, sys.modules[__name__], *modules)))


@contextmanager
def engine(threads: int, memory_limit_gb: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own that spills into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="millrace-duckdb-") as spill:
        limits: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "memory_limit": f"{memory_limit_gb}GB",
            "temp_directory": spill,
        }
        with duckdb.connect(config=limits) as connection:
            yield connection


class Transactions:
    """Transactions of a snapshot, or of anything with its columns, in one stable order; ids as integer codes.

    `table` has position, transaction_id, event_us, customer, terminal, amount_cents, is_fraud, label_us;
    `customers` and `terminals` are the ids behind the codes.
    """

    def __init__(self, rows: pa.Table) -> None:
        """`rows` as TRANSACTION_SCHEMA, or with `amount_cents` instead of `amount`."""
        customer, self.customers = _codes(rows["customer_id"])
        terminal, self.terminals = _codes(rows["terminal_id"])
        cents = rows["amount_cents"] if "amount_cents" in rows.column_names else cents_of(rows["amount"])
        self.table = pa.table(
            {
                "position": np.arange(len(rows)),
                "transaction_id": rows["transaction_id"],
                "event_us": rows["event_timestamp"].cast(pa.int64()),
                "customer": customer,
                "terminal": terminal,
                "amount_cents": cents,
                "is_fraud": rows["is_fraud"],
                "label_us": rows["label_timestamp"].cast(pa.int64()),
            }
        )

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Transactions:
        """The rows of a snapshot's partitions in the order of the files, without carried columns."""
        ids = ds.ParquetFileFormat(dictionary_columns=["customer_id", "terminal_id"])
        dataset = ds.dataset([str(path) for path in paths], format=ids)
        return cls(dataset.to_table(columns=TRANSACTION_SCHEMA.names))

    def column(self, name: str) -> NDArray[np.int64]:
        """A column without nulls as an array."""
        return np.asarray(self.table[name].to_numpy())


@dataclass(frozen=True, slots=True)
class DayFeatures:
    """One day's transactions with their features, and the terminals as of the midnight the day begins with."""

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
    """[T, S] in the order of TERMINAL_STATE_FIELDS; zeros for those that had none."""


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
        now, mine = now_us[rows], state[terminal[rows]]
        parts = [f.request_features(now, amount_cents[rows]), customer[rows], f.terminal_features(now, mine)]
        features = np.concatenate(parts, axis=1)
        yield DayFeatures(day, position[rows], features, f.terminal_risk(mine), appeared, state)


def as_utc(table: pa.Table) -> pa.Table:
    """The table with every timestamp in 'UTC', which is 'Etc/UTC' to DuckDB: equal instants, unequal types."""
    utc = TRANSACTION_SCHEMA.field("event_timestamp").type
    return table.cast(pa.schema([x.with_type(utc) if pa.types.is_timestamp(x.type) else x for x in table.schema]))


def cents_of(amount: pa.ChunkedArray) -> pa.ChunkedArray:
    """decimal(12, 2) → int64 cents, exact."""
    return pc.multiply(amount, pa.scalar(100, pa.decimal128(3, 0))).cast(pa.int64())


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

    A refresh is a day number; it sees what happened, and the labels that became known, before its midnight.
    `streak` and its start are those after the newest label, and mean nothing without a new one.
    """
    return f"""
        WITH labels AS (
            SELECT terminal, label_us // {f.DAY_US} + 1 AS refresh, is_fraud, event_us,
                row_number() OVER (PARTITION BY terminal ORDER BY label_us, transaction_id) AS place
            FROM transactions WHERE label_us IS NOT NULL AND is_fraud IS NOT NULL
        ), streaks AS (
            SELECT *, place - coalesce(max(place) FILTER (is_fraud = 0) OVER (
                PARTITION BY terminal ORDER BY place ROWS UNBOUNDED PRECEDING
            ), 0) AS streak
            FROM labels
        ), started AS (
            SELECT terminal, place, min(event_us) OVER (
                PARTITION BY terminal, place - streak ORDER BY place ROWS UNBOUNDED PRECEDING
            ) AS streak_start_us
            FROM streaks WHERE is_fraud = 1
        ), revealed AS (
            SELECT terminal, refresh, count(*) AS labels, sum(is_fraud)::BIGINT AS frauds, max(place) AS place,
                arg_max(streak, place) AS streak, max(event_us) FILTER (is_fraud = 1) AS last_fraud_us
            FROM streaks WHERE refresh <= $1 GROUP BY ALL
        ), happened AS (
            SELECT terminal, event_us // {f.DAY_US} + 1 AS refresh, count(*) AS transactions
            FROM transactions WHERE refresh <= $1 GROUP BY ALL
        )
        SELECT terminal, refresh, coalesce(transactions, 0) AS transactions, coalesce(labels, 0) AS labels,
            coalesce(frauds, 0) AS frauds, coalesce(streak, -1) AS streak,
            coalesce(streak_start_us, 0) AS streak_start_us, coalesce(last_fraud_us, 0) AS last_fraud_us
        FROM happened FULL JOIN revealed USING (terminal, refresh) LEFT JOIN started USING (terminal, place)
        ORDER BY refresh
    """


def terminal_states(
    connection: duckdb.DuckDBPyConnection, transactions: Transactions, first_day: int, last_day: int
) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.int64]]]:
    """For every refresh first_day … last_day (day numbers since 1970): the day, which terminals have appeared by then,
    and `state[terminals, len(TERMINAL_STATE_FIELDS)]`, zeros for those that have not."""
    changes = _query(connection, transactions, terminal_changes_sql(), last_day)
    start = int(changes["refresh"][0]) if len(changes["refresh"]) else first_day
    refreshes = range(min(start, first_day), last_day + 1)
    ends = np.searchsorted(changes["refresh"], refreshes, side="right")
    totals = np.zeros((3, len(transactions.terminals)), np.int64)  # transactions, labels, frauds since the beginning
    streak, streak_start_us, last_fraud_us = (np.zeros_like(totals[0]) for _ in range(3))
    past = deque([totals.copy()], maxlen=max(f.TERMINAL_VOLUME_WINDOWS_DAYS + f.TERMINAL_LABEL_WINDOWS_DAYS) + 1)
    begin = 0
    for refresh, end in zip(refreshes, ends, strict=True):
        new = {name: values[begin:end] for name, values in changes.items()}
        at, begin = new["terminal"], end
        totals[:, at] += np.stack([new["transactions"], new["labels"], new["frauds"]])
        streak[at] = np.where(new["labels"] > 0, new["streak"], streak[at])
        streak_start_us[at] = np.where(new["labels"] > 0, new["streak_start_us"], streak_start_us[at])
        last_fraud_us[at] = np.maximum(last_fraud_us[at], new["last_fraud_us"])
        past.append(totals.copy())
        if refresh >= first_day:
            yield refresh, totals[0] > 0, _terminal_state(past, streak, streak_start_us, last_fraud_us)


def _terminal_state(past: Sequence[NDArray[np.int64]], *latest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Totals as of each refresh, the newest last, and what needs no window → the columns of TERMINAL_STATE_FIELDS."""
    now, oldest = past[-1], len(past) - 1
    happened, labelled, fraud = range(3)
    windows = [(happened, days) for days in f.TERMINAL_VOLUME_WINDOWS_DAYS]
    windows += [(kind, days) for kind in (labelled, fraud) for days in f.TERMINAL_LABEL_WINDOWS_DAYS]
    return np.stack([*(now[kind] - past[-1 - min(days, oldest)][kind] for kind, days in windows), *latest], 1)


def _query(
    connection: duckdb.DuckDBPyConnection, transactions: Transactions, sql: str, parameter: int
) -> dict[str, NDArray[Any]]:
    connection.register("transactions", transactions.table)
    table = connection.sql(sql, params=[parameter]).to_arrow_table()
    connection.unregister("transactions")
    return {name: table[name].to_numpy() for name in table.column_names}


def _codes(ids: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[str]]:
    """String ids, dictionary-encoded or not → int32 codes, and the ids behind them in sorted order."""
    if not pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_encode()
    ids = ids.unify_dictionaries().combine_chunks()
    ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) and ids.num_chunks else ids
    if not len(ids):
        return pa.array([], pa.int32()), []
    order = pc.sort_indices(ids.dictionary).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return pa.array(rank[ids.indices.to_numpy()]), ids.dictionary.take(pa.array(order)).to_pylist()
