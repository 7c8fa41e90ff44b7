"""Turn a snapshot into feature tables, one file a day; days that are there already are not computed again.

In: a snapshot. Out: a feature set (docs/architecture.md). What a feature is: `fraud.features`; the windows
over a whole stream: `fraud.features_sql`; names and Parquet of the days: `partitions.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.build_features import partitions
from components.build_features.partitions import Day
from fraud import features_sql as sql
from fraud.features import FEATURE_SERVICE
from fraud.stream import Transactions, engine
from millrace.errors import ArtifactCorrupt
from millrace.lake.atomic import exclusive, sha256_file, sha256_text
from millrace.lake.manifest import Manifest, content_id
from millrace.observe.progress import log, track


def build_features(
    snapshot: Manifest,
    lake: Path,
    *,
    history_length: int,
    threads: int = 2,
    memory_limit_gb: float = 3.0,
    spark_master: str = "",
) -> Manifest:
    """The feature set of `snapshot`; only days without files are computed, so a killed build goes on where it was.

    With a `spark_master` Spark computes them (`spark.py`), otherwise DuckDB on this machine; the rows are the same.
    Raises InvalidInput for a snapshot without rows, ArtifactCorrupt when a day's file is not what the snapshot lists,
    SchemaMismatch when a column has the name of a feature, AlreadyRunning when another process builds the same set.
    """
    sources = snapshot.table("events")
    carried = partitions.carried_schema(sources) if sources else pa.schema([])
    root = sha256_text(sql.definition_version(partitions), str(history_length), str(carried))
    days = partitions.plan(snapshot, lake, root)
    identity = content_id({"snapshot": snapshot.id, "last": days[-1].terminal_state.stem})
    folder = lake / "feature_sets" / identity
    done = Manifest.find(folder, "feature_set")
    if done is not None and not any(day.missing for day in days):
        return done
    with exclusive(folder.with_name(f".{identity}.lock"), f"building feature set {identity}"):
        missing = [day for day in days if day.missing]
        if missing:  # their rows only: those of the days before were hashed when their own features were computed
            snapshot.verify({day.source for day in missing if day.source is not None})
            if spark_master:
                from components.build_features import spark

                spark.compute(days, carried, history_length, spark_master)
            else:
                _compute(days, carried, history_length, threads, memory_limit_gb)
        manifest = _manifest(snapshot, folder, identity, days, history_length)
    log("features built", feature_set=identity, days=len(days) - 1, computed=len(missing), rows=manifest.facts["rows"])
    return manifest


def _compute(
    days: Sequence[Day], carried: pa.Schema, history_length: int, threads: int, memory_limit_gb: float
) -> None:
    """Write the missing ones of `days`; those before the first of them are read for the histories they hold."""
    first = next(index for index, day in enumerate(days) if day.missing)
    transactions = Transactions.read([day.source for day in days if day.source is not None])
    ids, terminals = transactions.column("transaction_id"), pa.array(transactions.terminals, pa.string())
    with engine(threads, memory_limit_gb) as connection:
        span = (days[first].number, days[-1].number)
        computed = sql.daily_features(connection, transactions, history_length, *span)
        for day, new in zip(track(days[first:], "computing features"), computed, strict=True):
            if not day.terminal_state.exists():
                known = new.terminals
                names = terminals.take(pa.array(known.terminal))
                partitions.write_terminal_state(day.terminal_state, day.day, names, known.refresh, known.state)
            if day.source is not None and not day.transactions.exists():
                rows = pq.read_table(day.source)
                _require_own_rows(day, rows, ids[new.position])
                partitions.write_transactions(day.transactions, rows, carried, new.features, new.terminal_risk)


def _require_own_rows(day: Day, rows: pa.Table, computed: NDArray[np.int64]) -> None:
    """Features are put beside rows by place, so a partition must hold its own day and nothing else."""
    if not np.array_equal(rows["transaction_id"].to_numpy(), computed):
        raise ArtifactCorrupt(f"{day.source}: holds other rows than those of {day.day}. Ingest the data again.")


def _hash(path: Path, day: Day) -> str:
    return sha256_file(path) if path.exists() else day.elsewhere[path]


def _manifest(snapshot: Manifest, folder: Path, identity: str, days: Sequence[Day], history_length: int) -> Manifest:
    """Hash the files, write the manifest; a row of the snapshot is a row of `events`."""
    tables = {
        "events": {str(day.day): day.transactions for day in days if day.source is not None},
        "terminal_state": {str(day.day): day.terminal_state for day in days},
    }
    relative = {
        table: {day: os.path.relpath(path, folder) for day, path in paths.items()} for table, paths in tables.items()
    }
    facts = {
        "tables": relative,
        "feature_service": FEATURE_SERVICE,
        "history_length": history_length,
        "first_day": str(days[0].day),
        "last_day": str(days[-2].day),
        "rows": sum(pq.read_metadata(day.source).num_rows for day in days if day.source is not None),
    }
    files = {os.path.relpath(path, folder): _hash(path, day) for day in days for path in day.files}
    parents = {"snapshot": snapshot.id}
    return Manifest(
        kind="feature_set",
        id=identity,
        workload=snapshot.workload,
        uri=str(folder),
        parents=parents,
        files=files,
        facts=facts,
    ).write()
