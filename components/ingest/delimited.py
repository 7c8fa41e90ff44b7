"""Delimited text: encoding and delimiter found out, cut into segments of some MiB at line ends, every field a string.

Segments follow those the index knows as long as their bytes are the same, so lines appended to a file cost only
themselves. A line with too many or too few fields is handed over as it is, to be quarantined.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.csv as pacsv

from components.ingest.columns import Shape, matched, named, resolve
from components.ingest.index import Segment
from components.ingest.raw import RawRows, Stretch
from components.ingest.sources import SourceFile
from components.ingest.text import SEGMENT_BYTES, Text, encoding_of, ends_in_carriage_returns, require_text, unpacking
from millrace.errors import InvalidInput
from millrace.observe.progress import log
from millrace.workload import Schema

DELIMITERS: Final = (",", ";", "\t", "|")
_SAMPLE_BYTES: Final = 1 << 20


class DelimitedReader:
    """One CSV, TSV or the like."""

    def __init__(
        self, file: SourceFile, schema: Schema, column_map: Mapping[str, str], delimiter: str, encoding: str
    ) -> None:
        self.file = file
        with unpacking(file.name), file.open() as stream:
            sample = stream.read(_SAMPLE_BYTES)
        require_text(sample, file.name)

        self._carriage_returns = ends_in_carriage_returns(sample)
        self.encoding = encoding or encoding_of(sample)
        if not encoding and self.encoding == "latin-1":
            log("ingest reads as latin-1, for it is not UTF-8", file=file.name)

        with self._open() as text:
            _, self._header, named_delimiter = text.head()
        header = _decode(self._header, file.name).rstrip("\r\n")
        self.delimiter = delimiter or named_delimiter or _delimiter(header, schema, column_map)

        fields = next(csv.reader([header], delimiter=self.delimiter))
        raw = pa.schema([(name, pa.string()) for name in named(fields)])
        self.shape: Shape = resolve(raw, schema, column_map, file.name)

    def scan(self, known: Sequence[Segment]) -> Iterator[Stretch]:
        identity = f"{self.encoding}\0{self.delimiter}\0".encode() + self._header
        with self._open() as text:
            above, header, _ = text.head()
            position = len(above) + len(header)

            for segment in known:
                data = text.read(segment.end - segment.start)
                if segment.start != position or segment.hash != _hash(identity, data) or not data.endswith(b"\n"):
                    text.unread(data)
                    break
                position = segment.end
                yield Stretch(segment, True, partial(self._read, data))

            while data := text.lines(SEGMENT_BYTES):
                fresh = Segment(start=position, end=position + len(data), hash=_hash(identity, data))
                position = fresh.end
                yield Stretch(fresh, False, partial(self._read, data))

    def reread(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, RawRows]]:
        position = 0
        with self._open() as text:
            for segment in segments:
                text.skip(segment.start - position)
                position = segment.end
                for rows in self._read(text.read(segment.end - segment.start)):
                    yield segment, rows

    def _read(self, data: bytes) -> Iterator[RawRows]:
        """The segment as one table; rows are counted over all non-empty lines, malformed ones included."""
        malformed: list[tuple[int, str]] = []

        def set_aside(row: pacsv.InvalidRow) -> str:
            malformed.append((row.number - 1, row.text))
            return "skip"

        _decode(data, self.file.name)
        names = self.shape.raw.names
        try:
            table = pacsv.read_csv(
                pa.BufferReader(data),
                # One thread: only then do malformed rows come with their number.
                pacsv.ReadOptions(column_names=names, use_threads=False, block_size=max(len(data), 1)),
                pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=set_aside),
                pacsv.ConvertOptions(
                    column_types=self.shape.raw, strings_can_be_null=True, null_values=[""], check_utf8=False
                ),
            )
        except pa.ArrowInvalid as error:
            raise InvalidInput(f"{self.file.name} cannot be read as delimited text: {error}") from error

        skipped = {place for place, _ in malformed}
        places = [place for place in range(len(table) + len(skipped)) if place not in skipped] if skipped else None
        yield RawRows(table, places or range(len(table)), malformed)

    def _open(self) -> Text:
        opened = self.file.open()
        return Text(opened, self.encoding, self.file.name, carriage_returns=self._carriage_returns)


def _delimiter(header: str, schema: Schema, column_map: Mapping[str, str]) -> str:
    """The one that makes most of the header's fields mean something; then the one that makes most fields."""

    def worth(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader(io.StringIO(header), delimiter=delimiter), [])]
        return matched(names, schema, column_map), len(names)

    return max(DELIMITERS, key=worth)


def _decode(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path} began as UTF-8 but is not: {error.reason}, byte {data[error.start]:#x}. Name its encoding with"
            " --encoding, for example latin-1."
        ) from error


def _hash(identity: bytes, data: bytes) -> str:
    digest = hashlib.sha256(identity)
    digest.update(data)
    return digest.hexdigest()
