"""Day partitions in the lake: Parquet whose bytes depend on the rows only, named by their hash, shared by snapshots."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.ingest.index import DayRecord
from millrace.instants import date_of
from millrace.lake.atomic import sha256_file


def iso(day: int) -> str:
    """Days since 1970 as YYYY-MM-DD."""
    return str(date_of(day))


def partition_path(lake: Path, day: int, digest: str) -> Path:
    return lake / "events" / f"day={iso(day)}" / f"{digest[:16]}.parquet"


def write_partition(lake: Path, scratch: Path, day: int, rows: pa.Table, event_id: str) -> DayRecord:
    """Write one day's sorted rows unless a partition with these bytes is there."""
    aside = scratch / f"{day}.parquet"
    texts = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    pq.write_table(
        # One chunk and one row group, whatever batches the rows came in.
        rows.combine_chunks(),
        aside,
        row_group_size=max(len(rows), 1),
        compression="zstd",
        use_dictionary=texts or False,
        store_decimal_as_integer=True,
    )

    digest = sha256_file(aside)
    path = partition_path(lake, day, digest)
    if path.exists():
        aside.unlink()
    else:
        _publish(aside, path)

    ids = pc.min_max(rows[event_id]).as_py()
    return DayRecord(hash=digest, rows=len(rows), first_id=ids["min"], last_id=ids["max"])


def _publish(aside: Path, path: Path) -> None:
    """On disk before it has a name; the scratch folder is in the lake, so the rename is atomic."""
    with aside.open("rb") as stream:
        os.fsync(stream.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    aside.replace(path)
