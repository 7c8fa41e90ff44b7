"""The files of a training set: DuckDB selects and sorts, NumPy keeps. Called by `core.assemble` only.

`pool_positions` is the point-in-time join: where a row's history lies in the pool sorted by customer and time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from fraud.features import FEATURE_NAMES
from fraud.training_set import ROWS, SPLITS, UNKNOWN
from millrace.errors import InvalidInput
from millrace.lake.horizon import start_of
from millrace.lake.manifest import Manifest

if TYPE_CHECKING:
    from components.assemble.core import SplitSpec

CHUNK_ROWS: Final = 65_536
IDENTITY: Final = (
    "transaction_id",
    "event_timestamp",
    "customer_id",
    "terminal_id",
    "amount_cents",
    "is_fraud",
    "label_timestamp",
)
"""Columns of `rows.parquet` before the carried ones."""


def pool_positions(
    customer: NDArray[np.int64], is_row: NDArray[np.bool_], history_length: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Which transactions any row looks back on, and where the rows then lie.

    customer[T] ascending customer numbers of all transactions, is_row[T] → keep[T], and for the kept pool the
    position[R] of each row and start[R], the first index of its customer.
    """
    place = np.arange(len(customer))
    count = int(customer[-1]) + 1 if len(customer) else 0
    first, last = np.full(count, len(customer)), np.full(count, -1)
    np.minimum.at(first, customer[is_row], place[is_row])
    np.maximum.at(last, customer[is_row], place[is_row])
    keep = (place >= first[customer] - history_length) & (place <= last[customer])
    moved = np.cumsum(keep) - 1
    kept = customer[keep]
    starts = np.searchsorted(kept, np.arange(count))
    return keep, moved[is_row], starts[customer[is_row]]


def write_arrays(
    engine: duckdb.DuckDBPyConnection, feature_set: Manifest, spec: SplitSpec, history_length: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Every file of the training set into `folder`; returns `facts.splits`. Raises InvalidInput for an empty split."""
    rows = _select_rows(engine, feature_set, spec)
    label, split = _write_rows(engine, rows, folder)
    order = _write_pool(engine, feature_set, spec, history_length, folder)
    if not np.array_equal(order, pq.read_table(folder / ROWS, columns=["transaction_id"])["transaction_id"].to_numpy()):
        raise InvalidInput(f"feature set {feature_set.id} changed while it was read, or repeats a transaction_id")
    splits = {}
    for code, (name, (first, end)) in enumerate(spec.windows.items()):
        inside = split == code
        frauds = int((label[inside] == 1).sum())
        days = {"first_day": str(first), "last_day": str(end - timedelta(days=1))}
        splits[name] = days | {"rows": int(inside.sum()), "frauds": frauds}
    if empty := [name for name, facts in splits.items() if not facts["rows"]]:
        raise InvalidInput(f"no rows with a known label for {empty} of {splits}. Take other days, or more of them.")
    return splits


def _select_rows(engine: duckdb.DuckDBPyConnection, feature_set: Manifest, spec: SplitSpec) -> str:
    """Create the view of all rows with `split` and `label` (null: not known in time); returns its name."""
    cases, known = [], []
    for code, (name, (first, end)) in enumerate(spec.windows.items()):
        inside = f"event_timestamp >= {_instant(first)} AND event_timestamp < {_instant(end)}"
        cases.append(f"WHEN {inside} THEN {code}")
        known.append(f"WHEN {inside} THEN label_timestamp <= {_instant(spec.horizons[name])}")
    files = feature_set.table("events", spec.train_start, spec.test_end - timedelta(days=1))
    test = SPLITS.index("test")
    engine.execute(f"""
        CREATE TEMP VIEW split_rows AS
        SELECT *, CASE {" ".join(cases)} END::TINYINT AS _split,
               CASE WHEN (CASE {" ".join(known)} END) THEN is_fraud END AS _label
        FROM read_parquet({_list(files)})
    """)
    engine.execute(f"""
        CREATE TEMP VIEW chosen AS SELECT * FROM split_rows
        WHERE _split IS NOT NULL AND (_split = {test} OR _label IS NOT NULL)
    """)
    return "chosen"


def _write_rows(
    engine: duckdb.DuckDBPyConnection, rows: str, folder: Path
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """`rows.parquet`, features, label and split, streamed in time order; a label not known in time is blanked."""
    columns = [column[0] for column in engine.execute(f"DESCRIBE {rows}").fetchall()]
    carried = [c for c in columns if c not in {*IDENTITY, *FEATURE_NAMES, "terminal_risk", "_split", "_label"}]
    blanked = {
        "is_fraud": "_label AS is_fraud",
        "label_timestamp": "CASE WHEN _label IS NOT NULL THEN label_timestamp END AS label_timestamp",
    }
    kept = ", ".join(blanked.get(name, f'"{name}"') for name in (*IDENTITY, *carried))
    engine.execute(f"""
        COPY (SELECT {kept} FROM {rows} ORDER BY event_timestamp, transaction_id)
        TO {_quote(folder / ROWS)} (FORMAT parquet, COMPRESSION zstd)
    """)
    count = pq.read_metadata(folder / ROWS).num_rows
    features = open_memmap(folder / "features.npy", "w+", np.float32, (count, len(FEATURE_NAMES)))
    label, split = np.empty(count, np.int8), np.empty(count, np.int8)
    names = ", ".join(f'"{name}"' for name in FEATURE_NAMES)
    query = f"""SELECT coalesce(_label, {UNKNOWN})::TINYINT AS _label, _split, {names} FROM {rows}
                ORDER BY event_timestamp, transaction_id"""
    done = 0
    reader: pa.RecordBatchReader = engine.sql(query).to_arrow_reader(CHUNK_ROWS)
    for batch in reader:
        place = slice(done, done + len(batch))
        label[place], split[place] = batch["_label"].to_numpy(), batch["_split"].to_numpy()
        for index, name in enumerate(FEATURE_NAMES):
            features[place, index] = batch[name].to_numpy()
        done += len(batch)
    features.flush()
    np.save(folder / "label.npy", label)
    np.save(folder / "split.npy", split)
    return label, split


def _write_pool(
    engine: duckdb.DuckDBPyConnection, feature_set: Manifest, spec: SplitSpec, history_length: int, folder: Path
) -> NDArray[np.int64]:
    """The pool and the rows' places in it; returns the transaction ids of the rows, in time order."""
    files = feature_set.table("events", None, spec.test_end - timedelta(days=1))
    table: pa.Table = engine.sql(f"""
        SELECT epoch_us(event_timestamp) AS event_us, amount_cents, terminal_risk, transaction_id,
               (dense_rank() OVER (ORDER BY customer_id) - 1)::BIGINT AS customer,
               (chosen.transaction_id IS NOT NULL) AS is_row
        FROM read_parquet({_list(files)}) LEFT JOIN (SELECT transaction_id FROM chosen) AS chosen USING (transaction_id)
        ORDER BY customer, event_us, transaction_id
    """).to_arrow_table()
    column = {name: _numpy(table, name) for name in table.column_names}
    is_row = column["is_row"].astype(bool)
    keep, position, start = pool_positions(column["customer"], is_row, history_length)
    order = np.lexsort((column["transaction_id"][is_row], column["event_us"][is_row]))
    np.save(folder / "pool_event_us.npy", column["event_us"][keep])
    np.save(folder / "pool_amount_cents.npy", column["amount_cents"][keep].astype(np.int64))
    np.save(folder / "pool_terminal_risk.npy", column["terminal_risk"][keep].astype(np.float32))
    np.save(folder / "row_position.npy", position[order])
    np.save(folder / "row_start.npy", start[order])
    ids: NDArray[np.int64] = column["transaction_id"][is_row][order]
    return ids


@contextmanager
def engine_within(threads: int, memory_limit_gb: float, spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in memory, within bounds, in UTC."""
    config: dict[str, Any] = {"threads": threads, "memory_limit": f"{memory_limit_gb}GB"}
    config["temp_directory"] = str(spill / ".duckdb")
    with duckdb.connect(config=config) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        yield engine


def _numpy(table: Any, name: str) -> NDArray[Any]:
    column: NDArray[Any] = table[name].to_numpy()
    return column


def _instant(moment: date) -> str:
    """A date or datetime as a TIMESTAMPTZ literal."""
    moment = moment if isinstance(moment, datetime) else start_of(moment)
    return f"TIMESTAMPTZ '{moment.isoformat()}'"


def _quote(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _list(paths: list[Path]) -> str:
    return "[" + ", ".join(_quote(path) for path in paths) + "]"
