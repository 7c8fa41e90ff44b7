"""The same features on Spark, for histories that one machine does not hold: what is computed is the workload's code.

The workload lists its shards (`Batch.SHARDS`): each needs only the events of some keys, so Spark shuffles by those and
runs the very functions that DuckDB's path runs. The parts meet by event, and each day is written by the writer of
`partitions.py`. Executors need this project, the workload, DuckDB and the lake.
"""

from __future__ import annotations

import functools
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
from millrace.errors import ConfigError
from millrace.features.shards import Shard, Span
from millrace.fields import View
from millrace.installed import Workload
from millrace.instants import DAY_US
from millrace.observe.progress import log

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SHARD_ROWS: Final = 2_000_000
"""Events of a shard, about: what one executor core holds at a time."""
WRITTEN: Final = pa.schema([pa.field("day", pa.int64()), pa.field("rows", pa.int64())])
DDL: Final[dict[Any, str]] = {
    pa.int8(): "tinyint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.bool_(): "boolean",
    pa.string(): "string",
}

Compute = Callable[[pa.Table], pa.Table]


def compute(days: Sequence[Day], workload: Workload, carried: pa.Schema, history_length: int, master: str) -> None:
    """Write the missing ones of `days`, as `core` does with DuckDB; equal to it row by row.

    `master` is Spark's: local[N], or a cluster's, in client mode; inside spark-submit the session that runs is taken.
    Raises ConfigError for a workload without shards.
    """
    if not workload.batch.SHARDS:
        raise ConfigError(
            f"workload {workload.name!r} has no shards for Spark; unset MILLRACE_SPARK_MASTER to build with DuckDB"
        )
    first = next(index for index, day in enumerate(days) if day.missing)
    span = Span(days[first].number, days[-1].number, history_length)
    with _session(master) as spark:
        rows = spark.read.parquet(*(str(day.source) for day in days if day.source is not None))
        rows = rows.select(*workload.schema.EVENTS.names)
        shards = max(rows.count() // SHARD_ROWS, spark.sparkContext.defaultParallelism)
        spark.conf.set("spark.sql.shuffle.partitions", shards)  # 200 by default: as many Python workers started
        log("features on Spark", master=spark.sparkContext.master, shards=shards)

        columns: list[DataFrame] = []
        for shard in workload.batch.SHARDS:
            made = _sharded(rows, shard.keys, shards, _in_shard(workload, shard, span), _schema(shard))
            if shard.feeds:
                rows = rows.join(made, workload.schema.EVENT_ID, "left").cache()
            elif shard.view:
                _write_view(made, days, workload, _view(workload, shard.view))
            else:
                columns.append(made)
        together = functools.reduce(lambda left, right: left.join(right.drop("day"), workload.schema.EVENT_ID), columns)
        _written(together, _write_events(days, workload, carried))


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
    rows: DataFrame, keys: tuple[str, ...], shards: int, compute_shard: Compute, schema: pa.Schema
) -> DataFrame:
    """`compute_shard` over all rows of some keys at once; every row of a key is in one shard."""
    from pyspark.sql import functions as sf

    shard = sf.pmod(sf.hash(*keys), sf.lit(shards)) if keys else sf.lit(0)
    return rows.groupBy(shard.alias("shard")).applyInArrow(compute_shard, _ddl(schema))


def _written(rows: DataFrame, write_day: Compute) -> None:
    """Run `write_day` for each day of `rows`, where the executors are."""
    days = rows.groupBy("day").applyInArrow(write_day, _ddl(WRITTEN)).collect()
    log("written", days=len(days), rows=sum(day["rows"] for day in days))


def _in_shard(workload: Workload, shard: Shard, span: Span) -> Compute:
    """The workload's code over what Spark hands over, which has its own timestamp and decimal types."""
    raw, event_id = workload.schema.EVENTS, workload.schema.EVENT_ID

    def compute_shard(rows: pa.Table) -> pa.Table:
        ours = pa.schema([raw.field(c.name) if c.name in raw.names else c for c in rows.schema])
        rows = rows.cast(ours)
        made = shard.compute(rows, span)
        if shard.view or shard.feeds:
            return made
        at = pc.index_in(made[event_id], value_set=rows[event_id].combine_chunks())
        day = rows["event_timestamp"].cast(pa.int64()).to_numpy()[at.to_numpy()] // DAY_US
        return made.append_column("day", pa.array(day))

    return compute_shard


def _schema(shard: Shard) -> pa.Schema:
    """What `_in_shard` gives."""
    return shard.schema if shard.view or shard.feeds else shard.schema.append(pa.field("day", pa.int64()))


def _view(workload: Workload, name: str) -> View:
    return next(view for view in workload.refreshed if view.name == name)


def _write_view(states: DataFrame, days: Sequence[Day], workload: Workload, view: View) -> None:
    _written(states, _write_states(days, workload, view))
    _write_empty_states(days, workload, view)


def _write_states(days: Sequence[Day], workload: Workload, view: View) -> Compute:
    places, key = {day.number: day for day in days}, workload.entity(view.entity).key

    def write_day(rows: pa.Table) -> pa.Table:
        day = places[rows["day"][0].as_py()]
        path = day.states[view.name]
        if not path.exists():
            rows = rows.sort_by([(key, "ascending"), ("refresh", "ascending")])
            state = np.stack([rows[name].to_numpy() for name in view.fields])
            partitions.write_states(path, day, view, workload, rows[key], rows["refresh"].to_numpy(), state)
        return pa.table([[day.number], [len(rows)]], schema=WRITTEN)

    return write_day


def _write_empty_states(days: Sequence[Day], workload: Workload, view: View) -> None:
    """Writes the states of days before which no entity had appeared; no shard has a row of them."""
    none = np.zeros((len(view.fields), 0), np.int64)
    for day in days:
        path = day.states[view.name]
        if not path.exists():
            partitions.write_states(path, day, view, workload, pa.array([], pa.string()), none[0], none)


def _write_events(days: Sequence[Day], workload: Workload, carried: pa.Schema) -> Compute:
    places, event_id = {day.number: day for day in days}, workload.schema.EVENT_ID
    raw = set(workload.schema.EVENTS.names)
    remembered = [name for name in workload.batch.COLUMNS.names if name not in raw]

    def write_day(computed: pa.Table) -> pa.Table:
        day = places[computed["day"][0].as_py()]
        assert day.source is not None
        if not day.events.exists():
            rows = pq.read_table(day.source)
            order = pc.index_in(rows[event_id], value_set=computed[event_id].combine_chunks())
            beside = computed.take(order)
            features = np.stack([beside[name].to_numpy() for name in workload.features.FEATURE_NAMES], axis=1)
            values = {name: beside[name].to_numpy() for name in remembered}
            partitions.write_events(day.events, rows, workload, carried, features, values)
        return pa.table([[day.number], [len(computed)]], schema=WRITTEN)

    return write_day


def _ddl(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {DDL[field.type]}" for field in schema)
