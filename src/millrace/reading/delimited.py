"""Delimited text: encoding and delimiter found out, cut into segments of some MiB at line ends, every field a string.

Segments follow those the index knows as long as their bytes are the same, so lines appended to a file cost only
themselves. A line with too many or too few fields is handed over as it is, to be quarantined.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.csv as pacsv

from millrace.errors import InvalidInput
from millrace.observe.progress import log
from millrace.reading.columns import Shape, named, resolve
from millrace.reading.dialect import dialect_of, fields_of
from millrace.reading.document import ColumnsDocument
from millrace.reading.raw import RawRows, Segment, Stretch
from millrace.reading.sources import SourceFile, TableFile
from millrace.reading.text import SEGMENT_BYTES, Text, encoding_of, ends_in_carriage_returns, require_text
from millrace.workload import Schema

_SAMPLE_BYTES: Final = 1 << 20


class LineReader(ABC):
    """Text in lines: cut into segments, along those that are known; what a line is, is the format's."""

    shape: Shape
    encoding: str
    _identity: bytes
    """What decides, beside a segment's bytes, what they mean."""
    _start: int
    """Where rows begin in the decoded text."""

    def __init__(self, file: SourceFile | TableFile, document: ColumnsDocument) -> None:
        self.file = file
        self._read_options = document.read
        with file.open(document.read) as stream:
            self._sample = stream.read(_SAMPLE_BYTES)
        require_text(self._sample, file.name)

        self._carriage_returns = ends_in_carriage_returns(self._sample)
        self.encoding = document.read.encoding or encoding_of(self._sample)
        if not document.read.encoding and not self.encoding.startswith("utf"):
            log(f"reads as {self.encoding}, for it is not UTF-8; --encoding says otherwise", file=file.name)

    def scan(self, known: Sequence[Segment]) -> Iterator[Stretch]:
        position = self._start
        with self._open() as text:
            text.skip(self._start)
            for segment in known:
                data = text.read(segment.end - segment.start)
                if segment.start != position or segment.hash != self._hash(data) or not data.endswith(b"\n"):
                    text.unread(data)
                    break
                position = segment.end
                yield Stretch(segment, True, partial(self._read, data))

            while data := text.lines(SEGMENT_BYTES):
                fresh = Segment(start=position, end=position + len(data), hash=self._hash(data))
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

    def beginning(self) -> RawRows:
        """The rows of the first MiB, for those who look."""
        with self._open() as text:
            text.skip(self._start)
            data = text.lines(_SAMPLE_BYTES)
        return next(iter(self._read(data)))

    @abstractmethod
    def _read(self, data: bytes) -> Iterator[RawRows]:
        """Parse the decoded bytes of one segment."""

    def _hash(self, data: bytes) -> str:
        digest = hashlib.sha256(self._identity)
        digest.update(data)
        return digest.hexdigest()

    def _open(self) -> Text:
        opened = self.file.open(self._read_options)
        return Text(opened, self.encoding, self.file.name, carriage_returns=self._carriage_returns)


class DelimitedReader(LineReader):
    """One CSV, TSV or the like; every value is text."""

    def __init__(self, file: SourceFile | TableFile, schema: Schema, document: ColumnsDocument) -> None:
        super().__init__(file, document)
        with self._open() as text:
            above, line, named_delimiter = text.head(document.read.skip)
            following = text.lines(_SAMPLE_BYTES)
        header = decoded(line, file.name).rstrip("\r\n")
        self.dialect = dialect_of(header, following, schema, document, named_delimiter)

        names = document.read.names
        self._start = len(above) + (0 if names else len(line))
        self._identity = repr((self.encoding, self.dialect, names)).encode() + line
        fields = list(names) or fields_of(header, self.dialect)
        raw = pa.schema([(name, pa.string()) for name in named(fields)])
        self.shape = resolve(raw, schema, document, file.name)

    def _read(self, data: bytes) -> Iterator[RawRows]:
        """The segment as one table; rows are counted over all non-empty lines, malformed ones included."""
        malformed: list[tuple[int, str]] = []

        def set_aside(row: pacsv.InvalidRow) -> str:
            malformed.append((row.number - 1, row.text))
            return "skip"

        decoded(data, self.file.name)
        names, dialect = self.shape.raw.names, self.dialect
        try:
            table = pacsv.read_csv(
                pa.BufferReader(data),
                # One thread: only then do malformed rows come with their number.
                pacsv.ReadOptions(column_names=names, use_threads=False, block_size=max(len(data), 1)),
                pacsv.ParseOptions(
                    delimiter=dialect.delimiter,
                    quote_char=dialect.quote,
                    escape_char=dialect.escape or False,
                    newlines_in_values=True,
                    invalid_row_handler=set_aside,
                ),
                pacsv.ConvertOptions(
                    column_types=self.shape.raw, strings_can_be_null=True, null_values=[""], check_utf8=False
                ),
            )
        except pa.ArrowInvalid as error:
            raise InvalidInput(f"{self.file.name} cannot be read as delimited text: {error}") from error

        skipped = {place for place, _ in malformed}
        places = [place for place in range(len(table) + len(skipped)) if place not in skipped] if skipped else None
        yield RawRows(table, places or range(len(table)), malformed)


def decoded(data: bytes, path: str) -> str:
    """UTF-8 as text; raises InvalidInput where a file that began as UTF-8 is not."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path} began as UTF-8 but is not: {error.reason}, byte {data[error.start]:#x}. Name its encoding with"
            " --encoding, for example latin-1."
        ) from error
