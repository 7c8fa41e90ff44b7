"""Parquet files: a row group is a segment, known by the hash of its bytes; rows are read a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from millrace.errors import InvalidInput
from millrace.reading.columns import Shape, named, resolve
from millrace.reading.document import ColumnsDocument
from millrace.reading.raw import RawRows, Segment, Stretch
from millrace.reading.sources import SourceFile
from millrace.workload import Schema

_BATCH_ROWS: Final = 131_072
_HASH_BYTES: Final = 4 << 20


class ParquetReader:
    """One Parquet file."""

    def __init__(self, file: SourceFile, schema: Schema, document: ColumnsDocument) -> None:
        self.file = file
        with _named(file), self._open() as parquet:
            found = parquet.schema_arrow
        raw = pa.schema([_plain(field, name) for field, name in zip(found, named(found.names), strict=True)])
        self.shape: Shape = resolve(raw, schema, document, file.name)

    def scan(self, known: Sequence[Segment]) -> Iterator[Stretch]:
        by_place = {(segment.start, segment.hash): segment for segment in known}
        with _named(self.file), self._open() as parquet, self.file.fs.open(self.file.path, "rb") as stream:
            for group in range(parquet.metadata.num_row_groups):
                digest = _hash(stream, parquet.metadata.row_group(group), repr(parquet.schema_arrow))
                segment = by_place.get((group, digest))
                rows = parquet.metadata.row_group(group).num_rows
                fresh = Segment(start=group, end=group + 1, hash=digest, rows=rows)
                yield Stretch(segment or fresh, segment is not None, partial(self._read, parquet, group))

    def reread(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, RawRows]]:
        with _named(self.file), self._open() as parquet:
            for segment in segments:
                for rows in self._read(parquet, segment.start):
                    yield segment, rows

    def beginning(self) -> RawRows:
        """The first rows, for those who look."""
        with _named(self.file), self._open() as parquet:
            for group in range(parquet.metadata.num_row_groups):
                return next(iter(self._read(parquet, group)))
        return RawRows(self.shape.raw.empty_table(), range(0))

    def _read(self, parquet: pq.ParquetFile, group: int) -> Iterator[RawRows]:
        first = 0
        with _named(self.file):
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], use_threads=False):
                rows = _decoded(pa.Table.from_batches([batch])).rename_columns(self.shape.raw.names)
                yield RawRows(rows, range(first, first + len(batch)))
                first += len(batch)

    def _open(self) -> pq.ParquetFile:
        where: Any = self.file.path if self.file.local else self.file.fs.open(self.file.path, "rb")
        return pq.ParquetFile(where, memory_map=self.file.local, page_checksum_verification=True)


@contextmanager
def _named(file: SourceFile) -> Iterator[None]:
    """Arrow's errors about bytes, with the name of the file and what to do."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowIOError) as error:
        if isinstance(error, InvalidInput) or getattr(error, "errno", None):
            raise
        raise InvalidInput(f"{file.name} is a truncated or corrupt Parquet file: {error}. Export it again.") from error


def _hash(stream: Any, group: pq.RowGroupMetaData, schema: str) -> str:
    """Hash of the bytes of all column chunks, which lie one after the other, and of how they are to be read."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    starts = [min(one.dictionary_page_offset or one.data_page_offset, one.data_page_offset) for one in chunks]
    ends = [start + one.total_compressed_size for start, one in zip(starts, chunks, strict=True)]

    digest = hashlib.sha256(schema.encode())
    stream.seek(min(starts, default=0))
    left = max(ends, default=0) - min(starts, default=0)
    while left > 0 and (piece := stream.read(min(left, _HASH_BYTES))):
        digest.update(piece)
        left -= len(piece)

    return digest.hexdigest()


def _plain(field: pa.Field, name: str) -> pa.Field:
    """A field under its name; a UUID is text."""
    return pa.field(name, pa.string() if isinstance(field.type, pa.UuidType) else field.type)


def _decoded(table: pa.Table) -> pa.Table:
    """Dictionary-encoded columns (pandas categories) as plain values, UUIDs as text."""
    for place, item in enumerate(table.schema):
        if isinstance(item.type, pa.UuidType):
            texts = [None if one is None else str(one) for one in table.column(place).to_pylist()]
            table = table.set_column(place, item.name, pa.array(texts, pa.string()))
        if pa.types.is_dictionary(item.type):
            table = table.set_column(place, item.name, table.column(place).cast(item.type.value_type))
    return table
