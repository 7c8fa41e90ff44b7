"""Where scores go: Parquet or CSV, written aside and renamed when all of it is there; or CSV on stdout."""

from __future__ import annotations

import csv
import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from millrace.errors import InvalidInput
from millrace.lake.atomic import replacing_file
from millrace.uris import redacted
from run.file_rows import REASON, SOURCE_FILE, SOURCE_ROW, rejected_rows

STDOUT: Final = "-"
SUFFIXES: Final = (".parquet", ".csv", ".csv.gz")


class Sink(Protocol):
    """Takes tables of one schema, one after the other."""

    def write(self, table: pa.Table) -> None: ...


def output_of(source: str, named: str) -> str:
    """What was `named`, or a name beside the source: `rows.csv` → `rows.scores.csv`. Raises InvalidInput."""
    if named == STDOUT:
        return STDOUT
    if named:
        if not named.endswith(SUFFIXES):
            raise InvalidInput(
                f"output is {named!r}; wanted a name that ends in {', '.join(SUFFIXES)}, or - for stdout"
            )
        return named

    text = ".csv" in Path(source).name.lower()
    plain = redacted(source).rstrip("/").partition("?")[0]
    place = Path(Path(plain).name) if "://" in source else Path(plain).expanduser()
    stem = place.name.replace("*", "").partition(".")[0] or "rows"
    return str(place.with_name(f"{stem}.scores{'.csv' if text else '.parquet'}"))


def require_free(output: str, *, force: bool) -> None:
    """Raise InvalidInput for a file that would be overwritten, or a folder that cannot be written to."""
    if output == STDOUT:
        return
    path = Path(output)
    if path.exists() and not force:
        raise InvalidInput(f"{path} is there already. Name another file with -o, or overwrite it with --force.")
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; wanted a file")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InvalidInput(f"{folder} is no folder that you may write to. Name another file with -o.")


@contextmanager
def opened(output: str) -> Iterator[Sink]:
    """What scores are written to; nothing is at `output` unless all of it is."""
    if output == STDOUT:
        yield _Text(sys.stdout.buffer)
        return
    with replacing_file(Path(output)) as aside:
        if output.endswith(".parquet"):
            with _Parquet(aside) as sink:
                yield sink
        else:
            with gzip.open(aside, "wb") if output.endswith(".gz") else aside.open("wb") as stream:
                yield _Text(stream)


def write_rejected(path: Path, tables: list[pa.Table]) -> None:
    """Rejected rows as CSV, the reason first; readable by their owner only, for they hold raw ids."""
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    first = [REASON, SOURCE_FILE, SOURCE_ROW]
    with replacing_file(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*first, *(name for name in names if name not in first)], restval="")
        writer.writeheader()
        writer.writerows(rejected_rows(tables))
    path.chmod(0o600)


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)


class _Text:
    """CSV: times in ISO 8601, lists as JSON."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._begun = False

    def write(self, table: pa.Table) -> None:
        options = pacsv.WriteOptions(include_header=not self._begun, quoting_style="needed")
        pacsv.write_csv(_flat(table), self._stream, options)
        self._begun = True


def _flat(table: pa.Table) -> pa.Table:
    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            texts = [orjson.dumps(value).decode() if value else "[]" for value in table[field.name].to_pylist()]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    return table
