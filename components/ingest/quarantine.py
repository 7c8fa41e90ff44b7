"""Rejected rows, whole, each with its reason: Parquet files named so that the next snapshot can take over most of them.

`invalid-<segment>-<first row>.parquet` holds rows that broke a rule by themselves, `repeated-<day>-<segment>.parquet`
rows that lost against another row of the same id. Columns: `reason`, `source_file`, `source_row` (counted from 1
below the header), then the raw columns as text. They hold raw ids: only the owner may read the files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from millrace.lake.atomic import sha256_text

OURS: Final = ("reason", "source_file", "source_row")
RAW_LINE: Final = "raw_line"
"""Column with the text of a line that has more or fewer fields than the header."""


class Quarantine:
    """The files of one snapshot's quarantine, in a folder that takes its name at the end."""

    def __init__(self, folder: Path, db: duckdb.DuckDBPyConnection) -> None:
        self.folder = folder
        self._db = db
        folder.mkdir(parents=True)

    def add(self, name: str, raw: pa.Table, reasons: Sequence[str] | NDArray[Any], path: str, rows: Any) -> None:
        """Write raw rows, the reason of each, and where they stood: `rows` counts from 0 within the file."""
        self._db.register("rejected", raw.rename_columns([f"column_{place}" for place in range(raw.num_columns)]))
        text: pa.Table = self._db.sql("SELECT CAST(COLUMNS(*) AS VARCHAR) FROM rejected").to_arrow_table()
        self._db.unregister("rejected")
        text = text.rename_columns(raw.column_names)

        columns = {
            "reason": pa.array(list(reasons), pa.string()),
            "source_file": pa.array([path] * len(raw), pa.string()),
            "source_row": pa.array([int(row) + 1 for row in rows], pa.int64()),
        }
        for column in text.column_names:
            columns[f"raw_{column}" if column.lower() in OURS else column] = text[column]
        self._write(name, pa.table(columns))

    def add_malformed(self, name: str, lines: Sequence[tuple[int, str]], path: str) -> None:
        """Write lines that could not be split into the header's fields."""
        raw = pa.table({RAW_LINE: [text for _, text in lines]})
        self.add(name, raw, ["malformed_row"] * len(lines), path, [row for row, _ in lines])

    def take_over(self, before: Path, prefixes: Iterable[str]) -> None:
        """Link the files of an earlier quarantine that begin with one of `prefixes`."""
        wanted = tuple(prefixes)
        for path in sorted(before.glob("*.parquet")) if before.is_dir() else []:
            target = self.folder / path.name
            if path.name.startswith(wanted) and not target.exists():
                _link(path, target)

    def _write(self, name: str, table: pa.Table) -> None:
        path = self.folder / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd")
        path.chmod(0o600)


def segment_key(path: str, start: int, digest: str) -> str:
    """Short name of one segment of one file."""
    return sha256_text(path, str(start), digest)[:16]


def invalid_prefix(segment: str) -> str:
    return f"invalid-{segment}-"


def repeated_prefix(day: int) -> str:
    return f"repeated-{day}-"


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(path, target)
