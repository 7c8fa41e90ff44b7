"""The files of a training set: DuckDB selects and sorts, NumPy keeps. Called by `core.assemble` only.

`pool_positions` is the point-in-time join: where a row's history lies in the pool sorted by entity and time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from components.assemble.splits import SplitSpec
from millrace.errors import InvalidInput
from millrace.fields import View
from millrace.installed import Workload
from millrace.instants import start_of
from millrace.lake.manifest import Manifest
from millrace.lake.states import key_sql
from millrace.lake.training_set import ROWS, SPLITS, label_dtype, remembered_by, unknown
from millrace.sql import literal
from millrace.workload import Task

CHUNK_ROWS: Final = 65_536


def pool_positions(
    entity: NDArray[np.int64], is_row: NDArray[np.bool_], history_length: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Which events any row looks back on, and where the rows then lie.

    entity[T] ascending numbers of the entities of all events, is_row[T] → keep[T], and for the kept pool the
    position[R] of each row and start[R], the first index of its entity.
    """
    place = np.arange(len(entity))
    count = int(entity[-1]) + 1 if len(entity) else 0
    first, last = np.full(count, len(entity)), np.full(count, -1)
    np.minimum.at(first, entity[is_row], place[is_row])
    np.maximum.at(last, entity[is_row], place[is_row])
    keep = (place >= first[entity] - history_length) & (place <= last[entity])
    moved = np.cumsum(keep) - 1
    kept = entity[keep]
    starts = np.searchsorted(kept, np.arange(count))
    return keep, moved[is_row], starts[entity[is_row]]


@dataclass(frozen=True, slots=True)
class Source:
    """The feature set whose rows are split, and DuckDB to read it with."""

    engine: duckdb.DuckDBPyConnection
    feature_set: Manifest
    workload: Workload
    spec: SplitSpec
    history_length: int

    @property
    def order(self) -> str:
        """Columns that rows are sorted by."""
        return f"event_timestamp, {self.workload.schema.EVENT_ID}"


def write_arrays(source: Source, folder: Path) -> dict[str, dict[str, Any]]:
    """Every file of the training set into `folder`; returns `facts.splits`. Raises InvalidInput for an empty split."""
    rows = _select_rows(source)
    label, split = _write_rows(source, rows, folder)
    view = source.workload.recent
    if view is not None and source.workload.features.HISTORY_CHANNELS:
        _write_pool(source, view, folder)
    splits: dict[str, dict[str, Any]] = {}
    for code, (name, (first, end)) in enumerate(source.spec.windows.items()):
        inside = split == code
        splits[name] = {
            "first_day": str(first),
            "last_day": str(end - timedelta(days=1)),
            "rows": int(inside.sum()),
        }
        if source.workload.task is not Task.REGRESSION:
            splits[name]["positives"] = int((label[inside] == 1).sum())
    if empty := [name for name, facts in splits.items() if not facts["rows"]]:
        raise InvalidInput(f"no rows with a known label for {empty} of {splits}. Take other days, or more of them.")
    return splits


def _select_rows(source: Source) -> str:
    """Create the view of all rows with `_split` and `_label` (null: not known in time); returns its name."""
    spec, cases, known = source.spec, [], []
    for code, (name, (first, end)) in enumerate(spec.windows.items()):
        inside = f"event_timestamp >= {_instant(first)} AND event_timestamp < {_instant(end)}"
        cases.append(f"WHEN {inside} THEN {code}")
        known.append(f"WHEN {inside} THEN label_timestamp <= {_instant(spec.horizons[name])}")
    files = source.feature_set.table("events", spec.train_start, spec.test_end - timedelta(days=1))
    test = SPLITS.index("test")
    source.engine.execute(f"""
        CREATE TEMP VIEW split_rows AS
        SELECT *, CASE {" ".join(cases)} END::TINYINT AS _split,
               CASE WHEN (CASE {" ".join(known)} END) THEN "{source.workload.schema.LABEL.column}" END AS _label
        FROM read_parquet({_list(files)})
    """)
    source.engine.execute(f"""
        CREATE TEMP VIEW chosen AS SELECT * FROM split_rows
        WHERE _split IS NOT NULL AND (_split = {test} OR _label IS NOT NULL)
    """)
    return "chosen"


def _write_rows(source: Source, rows: str, folder: Path) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """`rows.parquet` and the arrays of rows, streamed in time order; a label not known in time is blanked."""
    inputs, label_column = source.workload.features.FEATURE_NAMES, source.workload.schema.LABEL.column
    columns = [column[0] for column in source.engine.execute(f"DESCRIBE {rows}").fetchall()]
    blanked = {
        label_column: f'_label AS "{label_column}"',
        "label_timestamp": "CASE WHEN _label IS NOT NULL THEN label_timestamp END AS label_timestamp",
    }
    kept = [name for name in columns if name not in {*inputs, "_split", "_label"}]
    source.engine.execute(f"""
        COPY (SELECT {", ".join(blanked.get(name, f'"{name}"') for name in kept)} FROM {rows} ORDER BY {source.order})
        TO {literal(folder / ROWS)} (FORMAT parquet, COMPRESSION zstd)
    """)
    count = pq.read_metadata(folder / ROWS).num_rows
    task = source.workload.task
    features = open_memmap(folder / "features.npy", "w+", np.float32, (count, len(inputs)))
    arrays = {
        "label": np.empty(count, label_dtype(task)),
        "split": np.empty(count, np.int8),
        "event_us": np.empty(count, np.int64),
    }
    query = f"""
        SELECT coalesce(_label, '{unknown(task)}'::FLOAT) AS label, _split AS split,
               epoch_us(event_timestamp) AS event_us, {", ".join(f'"{name}"' for name in inputs)}
        FROM {rows} ORDER BY {source.order}
    """
    done = 0
    reader: pa.RecordBatchReader = source.engine.sql(query).to_arrow_reader(CHUNK_ROWS)
    for batch in reader:
        place = slice(done, done + len(batch))
        for name, array in arrays.items():
            array[place] = batch[name].to_numpy()
        for index, name in enumerate(inputs):
            features[place, index] = batch[name].to_numpy()
        done += len(batch)
    features.flush()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return arrays["label"], arrays["split"]


def _write_pool(source: Source, view: View, folder: Path) -> None:
    """The pool and the rows' places in it; raises InvalidInput when rows and pool do not hold the same events."""
    event_id, values = source.workload.schema.EVENT_ID, remembered_by(view)
    files = source.feature_set.table("events", None, source.spec.test_end - timedelta(days=1))
    key = key_sql(source.workload, view.entity)
    table: pa.Table = source.engine.sql(f"""
        SELECT epoch_us(event_timestamp) AS event_us, {event_id} AS event_id, {", ".join(values)},
               (dense_rank() OVER (ORDER BY {key}) - 1)::BIGINT AS entity,
               (chosen.{event_id} IS NOT NULL) AS is_row
        FROM read_parquet({_list(files)}) LEFT JOIN (SELECT {event_id} FROM chosen) AS chosen USING ({event_id})
        ORDER BY entity, event_us, event_id
    """).to_arrow_table()
    column = {name: _numpy(table, name) for name in table.column_names}
    is_row = column["is_row"].astype(bool)
    keep, position, start = pool_positions(column["entity"], is_row, source.history_length)
    order = np.lexsort((column["event_id"][is_row], column["event_us"][is_row]))
    _require_same_rows(source, folder, column["event_id"][is_row][order])
    np.save(folder / "pool_event_us.npy", column["event_us"][keep])
    for name, dtype in values.items():
        np.save(folder / f"pool_{name}.npy", column[name][keep].astype(dtype))
    np.save(folder / "row_position.npy", position[order])
    np.save(folder / "row_start.npy", start[order])


def _require_same_rows(source: Source, folder: Path, ids: NDArray[np.int64]) -> None:
    event_id = source.workload.schema.EVENT_ID
    written = pq.read_table(folder / ROWS, columns=[event_id])[event_id].to_numpy()
    if not np.array_equal(ids, written):
        raise InvalidInput(f"feature set {source.feature_set.id} changed while it was read, or repeats an {event_id}")


def _numpy(table: Any, name: str) -> NDArray[Any]:
    column: NDArray[Any] = table[name].to_numpy()
    return column


def _instant(moment: date) -> str:
    """A date or datetime as a TIMESTAMPTZ literal."""
    moment = moment if isinstance(moment, datetime) else start_of(moment)
    return f"TIMESTAMPTZ '{moment.isoformat()}'"


def _list(paths: list[Path]) -> str:
    return "[" + ", ".join(literal(path) for path in paths) + "]"
