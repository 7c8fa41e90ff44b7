"""Turn a snapshot into feature tables, one file a day; days that are there already are not computed again.

In: a snapshot. Out: a feature set (docs/architecture.md). What a feature is, and how whole days of them are computed,
is the workload's (`batch`); names and Parquet of the days: `partitions.py`.
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
from components.build_features.partitions import EVENTS, Day
from millrace.errors import ArtifactCorrupt
from millrace.features.days import DayFeatures, Events
from millrace.features.events import engine, read_rows
from millrace.installed import Workload, load
from millrace.lake.atomic import sha256_file, sha256_text
from millrace.lake.manifest import Manifest, content_id
from millrace.lake.provenance import code_of
from millrace.lake.step import Step
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
    workload = load(snapshot.workload)
    sources = snapshot.table(EVENTS)
    carried = partitions.carried_schema(sources, workload) if sources else pa.schema([])
    root = sha256_text(definition(workload), str(history_length), str(carried))
    days = partitions.plan(snapshot, lake, root, workload.refreshed)
    identity = content_id({"snapshot": snapshot.id, "last": days[-1].before})
    parents = snapshot.as_parents()
    step = Step(kind="feature_set", id=identity, workload=workload.name, lake=lake, parents=parents)
    done = step.found()
    if done is not None and not any(day.missing for day in days):
        return done

    with step.alone("building feature set"):
        missing = [day for day in days if day.missing]
        if missing:  # their rows only: those of the days before were hashed when their own features were computed
            snapshot.verify({day.source for day in missing if day.source is not None})
            if spark_master:
                from components.build_features import spark

                spark.compute(days, workload, carried, history_length, spark_master)
            else:
                _compute(days, workload, carried, history_length, threads, memory_limit_gb)
        manifest = _record(step, workload, days, history_length)
    log("features built", feature_set=identity, days=len(days) - 1, computed=len(missing), rows=manifest.facts["rows"])
    return manifest


def definition(workload: Workload) -> str:
    """Hash of the code that defines the features and lays them out: a change is a new version."""
    return code_of(Path(partitions.__file__), *workload.files("schema", "features", "batch"))


def _compute(
    days: Sequence[Day],
    workload: Workload,
    carried: pa.Schema,
    history_length: int,
    threads: int,
    memory_limit_gb: float,
) -> None:
    """Write the missing ones of `days`; those before the first of them are read for the histories they hold."""
    first = next(index for index, day in enumerate(days) if day.missing)
    rows = read_rows([day.source for day in days if day.source is not None], workload.schema)
    events = workload.batch.events(rows)
    del rows
    with engine(threads, memory_limit_gb) as connection:
        span = (days[first].number, days[-1].number)
        computed = workload.batch.daily(connection, events, history_length, *span)
        for day, new in zip(track(days[first:], "computing features"), computed, strict=True):
            _write_states(day, workload, events, new)
            _write_events(day, workload, carried, events, new)


def _write_states(day: Day, workload: Workload, events: Events, new: DayFeatures) -> None:
    for view in workload.refreshed:
        path = day.states[view.name]
        if not path.exists():
            known = new.states[view.name]
            keys = events.ids[view.entity].take(pa.array(known.entity))
            partitions.write_states(path, day, view, workload, keys, known.refresh, known.state)


def _write_events(day: Day, workload: Workload, carried: pa.Schema, events: Events, new: DayFeatures) -> None:
    if day.source is None or day.events.exists():
        return

    rows = pq.read_table(day.source)
    name = workload.schema.EVENT_ID
    _require_own_rows(day, rows[name].to_numpy(), events.column(name)[new.position])
    partitions.write_events(day.events, rows, workload, carried, new.features, new.remembered)


def _require_own_rows(day: Day, ids: NDArray[np.int64], computed: NDArray[np.int64]) -> None:
    """Features are put beside rows by place, so a partition must hold its own day and nothing else."""
    if not np.array_equal(ids, computed):
        raise ArtifactCorrupt(f"{day.source}: holds other rows than those of {day.day}. Ingest the data again.")


def _hash(path: Path, day: Day) -> str:
    return sha256_file(path) if path.exists() else day.elsewhere[path]


def _record(step: Step, workload: Workload, days: Sequence[Day], history_length: int) -> Manifest:
    """Hash the files, write the manifest; a row of the snapshot is a row of `events`."""
    tables = {EVENTS: {str(day.day): day.events for day in days if day.source is not None}}
    for view in workload.refreshed:
        tables[view.name] = {str(day.day): day.states[view.name] for day in days}
    relative = {
        table: {day: os.path.relpath(path, step.folder) for day, path in paths.items()}
        for table, paths in tables.items()
    }
    facts = {
        "tables": relative,
        "feature_service": workload.features.FEATURE_SERVICE,
        "history_length": history_length,
        "first_day": str(days[0].day),
        "last_day": str(days[-2].day),
        "rows": sum(pq.read_metadata(day.source).num_rows for day in days if day.source is not None),
    }
    files = {os.path.relpath(path, step.folder): _hash(path, day) for day in days for path in day.files}
    return step.record(files, facts)
