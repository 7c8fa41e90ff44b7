"""The features in shards, for Spark: what is computed in each is the code of `days.py`.

A customer's features depend on that customer's transactions only; a terminal's on those at it, and on how usual the
frauds' amounts were for their customers. So the ratios come first, by customer, and feed the shards of terminals.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud import days, formulas, histories
from fraud import features as f
from millrace.features.days import DayStates, Events
from millrace.features.events import engine
from millrace.features.shards import Shard, Span
from millrace.instants import DAY_US

MEMORY_GB: Final = 1.0
"""Memory of DuckDB in a shard, which sorts and sums on one thread."""
RATIO_SIDE: Final = pa.schema([pa.field("transaction_id", pa.int64()), pa.field("amount_ratio", pa.int64())])
CUSTOMER_SIDE: Final = pa.schema(
    [pa.field("transaction_id", pa.int64()), *(pa.field(name, pa.float32()) for name in f.CUSTOMER_FEATURES)]
)
TERMINAL_SIDE: Final = pa.schema(
    [
        pa.field("transaction_id", pa.int64()),
        *(pa.field(name, pa.float32()) for name in (*f.REQUEST_FEATURES, *f.TERMINAL_FEATURES)),
        pa.field("amount_cents", pa.int64()),
        pa.field("terminal_risk", pa.float32()),
    ]
)
STATE_SIDE: Final = pa.schema(
    [
        pa.field("day", pa.int64()),
        pa.field("refresh", pa.int64()),
        pa.field("terminal_id", pa.string()),
        *(pa.field(name, pa.int64()) for name in formulas.TERMINAL_STATE_FIELDS),
    ]
)


def amount_ratios(rows: pa.Table, _: Span) -> pa.Table:
    """How usual the amount of each fraud was for its customer; nothing of the others."""
    transactions = days.events(rows)
    with engine(1, MEMORY_GB) as connection:
        ratios = histories.amount_ratios(days.histories(connection, transactions))
    frauds = np.flatnonzero(ratios)
    return pa.table([transactions.column("transaction_id")[frauds], ratios[frauds]], schema=RATIO_SIDE)


def customer_features(rows: pa.Table, span: Span) -> pa.Table:
    transactions = days.events(rows)
    first_us = span.first_day * DAY_US
    with engine(1, MEMORY_GB) as connection:
        ordered = days.histories(connection, transactions)
    features = histories.customer_features(ordered, span.history_length, first_us)
    position = np.flatnonzero(transactions.column("event_us") >= first_us)
    ids, features = transactions.column("transaction_id")[position], features[position]
    return pa.table([ids, *np.ascontiguousarray(features.T)], schema=CUSTOMER_SIDE)


def terminal_features(rows: pa.Table, span: Span) -> pa.Table:
    transactions = days.events(rows)
    names = ("event_us", "amount_cents", "terminal", "transaction_id")
    now_us, cents, terminal, ids = (transactions.column(name) for name in names)

    parts = []
    for states in _states_of(transactions, rows, span):
        at = np.flatnonzero(now_us // DAY_US == states.day)
        now = now_us[at]
        mine = states.at(terminal[at], now)
        block = np.concatenate(
            [formulas.request_features(now, cents[at]), formulas.terminal_features(now, mine)], axis=1
        )
        columns = [ids[at], *np.ascontiguousarray(block.T), cents[at], formulas.terminal_risk(mine)]
        parts.append(pa.table(columns, schema=TERMINAL_SIDE))

    return pa.concat_tables(parts) if parts else TERMINAL_SIDE.empty_table()


def terminal_states(rows: pa.Table, span: Span) -> pa.Table:
    transactions = days.events(rows)
    ids, parts = transactions.ids["terminal"], []
    for states in _states_of(transactions, rows, span):
        labels = [np.full(len(states.key), states.day), states.refresh]
        parts.append(pa.table([*labels, ids.take(pa.array(states.entity)), *states.state], schema=STATE_SIDE))
    return pa.concat_tables(parts) if parts else STATE_SIDE.empty_table()


def _states_of(transactions: Events, rows: pa.Table, span: Span) -> Iterator[DayStates]:
    ratios = pc.fill_null(rows["amount_ratio"], 0).to_numpy()
    with engine(1, MEMORY_GB) as connection:
        yield from days.terminal_states(connection, transactions, span.first_day, span.last_day, ratios)


SHARDS: Final = (
    Shard(("customer_id",), amount_ratios, RATIO_SIDE, feeds=True),
    Shard(("terminal_id",), terminal_states, STATE_SIDE, view="terminal_state"),
    Shard(("terminal_id",), terminal_features, TERMINAL_SIDE),
    Shard(("customer_id",), customer_features, CUSTOMER_SIDE),
)
