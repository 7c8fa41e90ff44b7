"""The same features on Spark, for histories that one machine does not hold: what is computed is DuckDB's code, sharded.

A customer's features depend on that customer's transactions only; a terminal's on those at it, and on how usual the
frauds' amounts were for their customers. So Spark shuffles by customer, then by terminal; each shard runs the very
functions of `fraud.features_sql`; the halves meet by transaction, and each day is written by the writer of
`partitions.py`. Executors need this project, DuckDB and the lake.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.build_features import partitions
from components.build_features.partitions import Day
from fraud import features as f
from fraud import features_sql as sql
from fraud import histories
from fraud.schema import TRANSACTION_SCHEMA
from fraud.stream import Transactions, engine
from fraud.terminals import DayStates
from millrace.observe.progress import log

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SHARD_ROWS: Final = 2_000_000
"""Transactions of a shard, about: what one executor core holds at a time."""
CUSTOMER_SIDE: Final = pa.schema(
    [pa.field("transaction_id", pa.int64()), *(pa.field(name, pa.float32()) for name in f.CUSTOMER_FEATURES)]
)
TERMINAL_SIDE: Final = pa.schema(
    [
        pa.field("transaction_id", pa.int64()),
        pa.field("day", pa.int64()),
        *(pa.field(name, pa.float32()) for name in (*f.REQUEST_FEATURES, *f.TERMINAL_FEATURES)),
        pa.field("terminal_risk", pa.float32()),
    ]
)
RATIO_SIDE: Final = pa.schema([pa.field("transaction_id", pa.int64()), pa.field("amount_ratio", pa.int64())])
STATE_SIDE: Final = pa.schema(
    [
        pa.field("day", pa.int64()),
        pa.field("refresh", pa.int64()),
        pa.field("terminal_id", pa.string()),
        *(pa.field(name, pa.int64()) for name in f.TERMINAL_STATE_FIELDS),
    ]
)
WRITTEN: Final = pa.schema([pa.field("day", pa.int64()), pa.field("rows", pa.int64())])


def compute(days: Sequence[Day], carried: pa.Schema, history_length: int, master: str) -> None:
    """Write the missing ones of `days`, as `core` does with DuckDB; equal to it row by row.

    `master` is Spark's: local[N], or a cluster's, in client mode; inside spark-submit the session that runs is taken.
    """
    first = next(index for index, day in enumerate(days) if day.missing)
    span = days[first].number, days[-1].number
    with _session(master) as spark:
        rows = spark.read.parquet(*(str(day.source) for day in days if day.source is not None))
        rows = rows.select(*TRANSACTION_SCHEMA.names)
        shards = max(rows.count() // SHARD_ROWS, spark.sparkContext.defaultParallelism)
        spark.conf.set("spark.sql.shuffle.partitions", shards)  # 200 by default: as many Python workers started
        log("features on Spark", master=spark.sparkContext.master, shards=shards)
        ratios = _sharded(rows, "customer_id", shards, _ratio_side, RATIO_SIDE)
        judged = rows.join(ratios, "transaction_id", "left").cache()
        states = _sharded(judged, "terminal_id", shards, _terminal_states(*span), STATE_SIDE)
        _written(states, _write_states(days))
        _write_empty_states(days)
        customers = _sharded(rows, "customer_id", shards, _customer_side(history_length, span[0]), CUSTOMER_SIDE)
        terminals = _sharded(judged, "terminal_id", shards, _terminal_side(*span), TERMINAL_SIDE)
        _written(terminals.join(customers, "transaction_id"), _write_transactions(days, carried))


@contextmanager
def _session(master: str) -> Iterator[SparkSession]:
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master(master)
        .appName("millrace-features")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.ui.showConsoleProgress", str(sys.stderr.isatty()).lower())
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield spark
    finally:
        spark.stop()


def _sharded(
    rows: DataFrame, key: str, shards: int, compute_shard: Callable[[pa.Table], pa.Table], schema: pa.Schema
) -> DataFrame:
    """`compute_shard` over all rows of some keys at once; every row of a key is in one shard."""
    from pyspark.sql import functions as sf

    shard = sf.pmod(sf.hash(key), sf.lit(shards))
    return rows.groupBy(shard.alias("shard")).applyInArrow(compute_shard, _ddl(schema))


def _written(rows: DataFrame, write_day: Callable[[pa.Table], pa.Table]) -> None:
    """Run `write_day` for each day of `rows`, where the executors are."""
    days = rows.groupBy("day").applyInArrow(write_day, _ddl(WRITTEN)).collect()
    log("written", days=len(days), rows=sum(day["rows"] for day in days))


def _customer_side(history_length: int, first_day: int) -> Callable[[pa.Table], pa.Table]:
    def compute_shard(rows: pa.Table) -> pa.Table:
        transactions = _transactions(rows)
        with engine(1, 1.0) as connection:
            ordered = sql.histories(connection, transactions)
        features = histories.customer_features(ordered, history_length, first_day * f.DAY_US)
        position = np.flatnonzero(transactions.column("event_us") >= first_day * f.DAY_US)
        ids, features = transactions.column("transaction_id")[position], features[position]
        return pa.table([ids, *np.ascontiguousarray(features.T)], schema=CUSTOMER_SIDE)

    return compute_shard


def _ratio_side(rows: pa.Table) -> pa.Table:
    """How usual the amount of each fraud was for its customer; nothing of the others."""
    transactions = _transactions(rows)
    with engine(1, 1.0) as connection:
        ratios = histories.amount_ratios(sql.histories(connection, transactions))
    frauds = np.flatnonzero(ratios)
    return pa.table([transactions.column("transaction_id")[frauds], ratios[frauds]], schema=RATIO_SIDE)


def _terminal_side(first_day: int, last_day: int) -> Callable[[pa.Table], pa.Table]:
    def compute_shard(rows: pa.Table) -> pa.Table:
        transactions = _transactions(rows)
        names = ("event_us", "amount_cents", "terminal", "transaction_id")
        now_us, cents, terminal, ids = (transactions.column(name) for name in names)
        parts = []
        for states in _states_of(transactions, rows, first_day, last_day):
            at = np.flatnonzero(now_us // f.DAY_US == states.day)
            now = now_us[at]
            mine = states.at(terminal[at], now)
            block = np.concatenate([f.request_features(now, cents[at]), f.terminal_features(now, mine)], axis=1)
            columns = [ids[at], np.full(len(at), states.day), *np.ascontiguousarray(block.T), f.terminal_risk(mine)]
            parts.append(pa.table(columns, schema=TERMINAL_SIDE))
        return pa.concat_tables(parts) if parts else TERMINAL_SIDE.empty_table()

    return compute_shard


def _terminal_states(first_day: int, last_day: int) -> Callable[[pa.Table], pa.Table]:
    def compute_shard(rows: pa.Table) -> pa.Table:
        transactions = _transactions(rows)
        ids, parts = pa.array(transactions.terminals, pa.string()), []
        for states in _states_of(transactions, rows, first_day, last_day):
            labels = [np.full(len(states.key), states.day), states.refresh]
            parts.append(pa.table([*labels, ids.take(pa.array(states.terminal)), *states.state], schema=STATE_SIDE))
        return pa.concat_tables(parts) if parts else STATE_SIDE.empty_table()

    return compute_shard


def _states_of(transactions: Transactions, rows: pa.Table, first_day: int, last_day: int) -> Iterator[DayStates]:
    ratios = pc.fill_null(rows["amount_ratio"], 0).to_numpy()
    with engine(1, 1.0) as connection:
        yield from sql.terminal_states(connection, transactions, first_day, last_day, ratios)


def _write_states(days: Sequence[Day]) -> Callable[[pa.Table], pa.Table]:
    places = {day.number: day for day in days}

    def write_day(rows: pa.Table) -> pa.Table:
        day = places[rows["day"][0].as_py()]
        if not day.terminal_state.exists():
            rows = rows.sort_by([("terminal_id", "ascending"), ("refresh", "ascending")])
            state = np.stack([rows[name].to_numpy() for name in f.TERMINAL_STATE_FIELDS])
            refresh = rows["refresh"].to_numpy()
            partitions.write_terminal_state(day.terminal_state, day.day, rows["terminal_id"], refresh, state)
        return pa.table([[day.number], [len(rows)]], schema=WRITTEN)

    return write_day


def _write_empty_states(days: Sequence[Day]) -> None:
    """Of days before which no terminal had appeared: no shard has a row of them."""
    none = np.zeros((len(f.TERMINAL_STATE_FIELDS), 0), np.int64)
    for day in days:
        if not day.terminal_state.exists():
            partitions.write_terminal_state(day.terminal_state, day.day, pa.array([], pa.string()), none[0], none)


def _write_transactions(days: Sequence[Day], carried: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    places = {day.number: day for day in days}

    def write_day(computed: pa.Table) -> pa.Table:
        day = places[computed["day"][0].as_py()]
        assert day.source is not None
        if not day.transactions.exists():
            rows = pq.read_table(day.source)
            order = pc.index_in(rows["transaction_id"], value_set=computed["transaction_id"].combine_chunks())
            beside = computed.take(order)
            features = np.stack([beside[name].to_numpy() for name in f.FEATURE_NAMES], axis=1)
            risk = beside["terminal_risk"].to_numpy()
            partitions.write_transactions(day.transactions, rows, carried, features, risk)
        return pa.table([[day.number], [len(computed)]], schema=WRITTEN)

    return write_day


def _transactions(rows: pa.Table) -> Transactions:
    """What Spark hands over has its own timestamp and decimal types."""
    return Transactions(rows.select(TRANSACTION_SCHEMA.names).cast(TRANSACTION_SCHEMA))


def _ddl(schema: pa.Schema) -> str:
    names: dict[Any, str] = {pa.int64(): "bigint", pa.float32(): "float", pa.string(): "string"}
    return ", ".join(f"{field.name} {names[field.type]}" for field in schema)
