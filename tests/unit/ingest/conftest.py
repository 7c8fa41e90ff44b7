"""A small source to ingest: three days of transactions as a list of dicts, and ways to write it down."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from millrace.lake.manifest import Manifest
from millrace.reading.document import parse

KEY = b"a key of tests"
NAMES = ("transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount", "is_fraud")
Row = dict[str, Any]


class Lake:
    """A lake in a temporary folder, and short ways to ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ingest(self, source: Path | str, **document: Any) -> Manifest:
        """With `read` and `columns` of a columns document."""
        columns = parse(document)
        return ingest(str(source), self.folder, IngestConfig(workload="fraud", pseudonym_key=KEY, columns=columns))

    def rows(self, manifest: Manifest, columns: str = "*") -> list[tuple[Any, ...]]:
        paths = [str(path) for path in manifest.table("events")]
        return self._ask(f"SELECT {columns} FROM read_parquet({paths}) ORDER BY transaction_id")

    def ids(self, manifest: Manifest) -> list[int]:
        return [row[0] for row in self.rows(manifest, "transaction_id")]

    def quarantine(self, manifest: Manifest, columns: str = "*") -> list[tuple[Any, ...]]:
        if not manifest.facts["quarantined"]:
            return []
        pattern = str(self.folder / "quarantine" / manifest.id / "*.parquet")
        sql = f"SELECT {columns} FROM read_parquet('{pattern}', union_by_name=true) ORDER BY source_file, source_row"
        return self._ask(sql)

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            return db.sql(sql).fetchall()

    def partitions(self) -> set[Path]:
        return set(self.folder.glob("events/day=*/*.parquet"))

    def snapshots(self) -> set[str]:
        return {path.name for path in self.folder.glob("snapshots/*")}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def events() -> list[Row]:
    return make_events(range(30))


@pytest.fixture
def make() -> Callable[..., list[Row]]:
    return make_events


def make_events(ids: Sequence[int]) -> list[Row]:
    """One row per id, ten a day from 2018-04-01 on, in the order of time."""
    start = datetime(2018, 4, 1, 8)
    return [
        {
            "transaction_id": one,
            "event_timestamp": str(start + timedelta(days=one // 10, minutes=one % 10)),
            "customer_id": str(one % 7),
            "terminal_id": str(one % 3),
            "amount": f"{10 + one}.50",
            "is_fraud": str(int(one % 10 == 0)),
        }
        for one in ids
    ]


def to_csv(rows: Sequence[Row], path: Path, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row)) or list(NAMES)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def to_parquet(rows: Sequence[Row], path: Path, **types: pa.DataType) -> Path:
    """Typed as people export it: integers, naive timestamps, floats; `types` overrides."""
    usual = {
        "transaction_id": pa.int64(),
        "event_timestamp": pa.timestamp("ns"),
        "amount": pa.float64(),
        "is_fraud": pa.int64(),
    }
    table = pa.Table.from_pylist(list(rows))
    for name, kind in (usual | types).items():
        place = table.schema.get_field_index(name)
        column = table[name].cast(pa.string())
        column = column.cast(pa.timestamp("us")) if pa.types.is_timestamp(kind) else column
        table = table.set_column(place, name, column.cast(kind))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


@pytest.fixture
def csv_of() -> Callable[..., Path]:
    return to_csv


@pytest.fixture
def parquet_of() -> Callable[..., Path]:
    return to_parquet
