"""Turn a snapshot into feature tables, one file a day; days that are there already are not computed again.

In: a snapshot. Out: a feature set (docs/architecture.md). What a feature is: `millrace.fraud.features`; the windows
over a whole stream: `millrace.fraud.features_sql`; names and Parquet of the days: `partitions.py`.
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
from millrace.artifacts import Manifest, content_id
from millrace.atomic import exclusive, sha256_file, sha256_text
from millrace.errors import ArtifactCorrupt
from millrace.fraud import features as f
from millrace.fraud import features_sql as sql
from millrace.progress import log, track


def build_features(
    snapshot: Manifest, lake: Path, *, history_length: int, threads: int = 2, memory_limit_gb: float = 3.0
) -> Manifest:
    """The feature set of `snapshot`; only days without files are computed, so a killed build goes on where it was.

    Raises InvalidInput for a snapshot without rows, SchemaMismatch when a column has the name of a feature,
    AlreadyRunning when another process builds the same set.
    """
    sources = snapshot.table("transactions")
    carried = partitions.carried_schema(sources) if sources else pa.schema([])
    root = sha256_text(sql.definition_version(partitions), str(history_length), str(carried))
    days = partitions.plan(snapshot, lake, root)
    identity = content_id({"snapshot": snapshot.id, "last": days[-1].terminal_state.stem})
    folder = lake / "feature_sets" / identity
    if (folder / "manifest.json").is_file() and not any(day.missing for day in days):
        return Manifest.read(folder, "feature_set")
    with exclusive(folder.with_name(f".{identity}.lock"), f"building feature set {identity}"):
        missing = [day for day in days if day.missing]
        if missing:
            _compute(days, missing[0], carried, history_length, threads, memory_limit_gb)
        manifest = _manifest(snapshot, folder, identity, days, history_length)
    log("features built", feature_set=identity, days=len(days) - 1, computed=len(missing), rows=manifest.facts["rows"])
    return manifest


def _compute(
    days: Sequence[Day], first: Day, carried: pa.Schema, history_length: int, threads: int, memory_limit_gb: float
) -> None:
    """Write what is missing from `first` on; the days before it are read for the histories they hold."""
    transactions = sql.Transactions.read([day.source for day in days if day.source is not None])
    terminals = np.array(transactions.terminals, dtype=str)
    with sql.engine(threads, memory_limit_gb) as engine:
        positions, totals = sql.customer_totals(engine, transactions, history_length, first.number * f.DAY_US)
        states = sql.terminal_states(engine, transactions, first.number, days[-1].number)
        columns = ("transaction_id", "event_us", "amount_cents", "terminal")
        ids, now_us, cents, terminal = (transactions.column(name)[positions] for name in columns)
        customer = f.customer_features_of(now_us, cents, totals)
        end = 0
        todo = track(days[days.index(first) :], "computing features")
        for day, (_, appeared, state) in zip(todo, states, strict=True):
            if not day.terminal_state.exists():
                partitions.write_terminal_state(day.terminal_state, day.day, terminals[appeared], state[appeared])
            if day.source is None:
                continue
            rows = pq.read_table(day.source)
            here = slice(end, end := end + len(rows))
            _require_own_rows(day, rows, ids[here], now_us[here])
            if not day.transactions.exists():
                mine = state[terminal[here]]
                request = f.request_features(now_us[here], cents[here])
                features = [request, customer[here], f.terminal_features(now_us[here], mine)]
                partitions.write_transactions(
                    day.transactions, rows, carried, np.concatenate(features, axis=1), f.terminal_risk(mine)
                )


def _require_own_rows(day: Day, rows: pa.Table, ids: NDArray[np.int64], now_us: NDArray[np.int64]) -> None:
    """Rows are matched by place: every partition must hold its own day and nothing else."""
    if not np.array_equal(rows["transaction_id"].to_numpy(), ids) or (now_us // f.DAY_US != day.number).any():
        raise ArtifactCorrupt(f"{day.source}: holds rows of another day than {day.day}. Ingest the data again.")


def _manifest(snapshot: Manifest, folder: Path, identity: str, days: Sequence[Day], history_length: int) -> Manifest:
    """Hash the files, write the manifest."""
    folder.mkdir(parents=True, exist_ok=True)  # first, so that paths relative to it can be followed
    tables = {
        "transactions": {str(day.day): day.transactions for day in days if day.source is not None},
        "terminal_state": {str(day.day): day.terminal_state for day in days},
    }
    relative = {
        table: {day: os.path.relpath(path, folder) for day, path in paths.items()} for table, paths in tables.items()
    }
    facts = {
        "tables": relative,
        "feature_service": f.FEATURE_SERVICE,
        "history_length": history_length,
        "first_day": str(days[0].day),
        "last_day": str(days[-2].day),
        "rows": sum(pq.read_metadata(path).num_rows for path in tables["transactions"].values()),
    }
    files = {name: sha256_file(folder / name) for paths in relative.values() for name in paths.values()}
    parents = {"snapshot": snapshot.id}
    return Manifest(kind="feature_set", id=identity, uri=str(folder), parents=parents, files=files, facts=facts).write()
