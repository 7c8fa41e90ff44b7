"""Delimited text: encoding and delimiter found out, cut into segments of some MiB at line ends, every field a string.

Segments follow those the index knows as long as their bytes are the same, so lines appended to a file cost only
themselves. A line with too many or too few fields is handed over as it is, to be quarantined.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Final

import pyarrow as pa
import pyarrow.csv as pacsv

from components.ingest.columns import Shape, matched, resolve
from components.ingest.index import Segment
from components.ingest.raw import RawRows, Stretch
from components.ingest.sources import SourceFile
from millrace.errors import InvalidInput
from millrace.observe.progress import log

DELIMITERS: Final = (",", ";", "\t", "|")
SEGMENT_BYTES: Final = 16 << 20
_SAMPLE_BYTES: Final = 1 << 20
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class DelimitedReader:
    """One CSV, TSV or the like."""

    def __init__(self, file: SourceFile, column_map: Mapping[str, str], delimiter: str, encoding: str) -> None:
        self.file = file
        with file.open() as stream:
            sample = stream.read(_SAMPLE_BYTES)
        if not sample.strip():
            raise InvalidInput(f"{file.name} is empty; wanted a header line and rows")
        self.encoding = encoding or _encoding(sample)
        if not encoding and self.encoding == "latin-1":
            log("ingest reads as latin-1, for it is not UTF-8", file=file.name)
        with self._open() as text:
            self._header = text.line()
        header = _decode(self._header, file.name).rstrip("\r\n")
        self.delimiter = delimiter or _delimiter(header, column_map)
        fields = next(csv.reader([header], delimiter=self.delimiter))
        # pandas writes its index under an empty name
        names = [name.strip() or f"unnamed_{place}" for place, name in enumerate(fields)]
        self.shape: Shape = resolve(pa.schema([(name, pa.string()) for name in names]), column_map, file.name)

    def scan(self, known: Sequence[Segment]) -> Iterator[Stretch]:
        identity = f"{self.encoding}\0{self.delimiter}\0".encode() + self._header
        with self._open() as text:
            position = len(text.line())
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

    def _open(self) -> _Text:
        return _Text(self.file.open(), self.encoding, self.file.name)


class _Text:
    """Bytes of a text stream as UTF-8, in pieces of the asked size or cut at a line end."""

    def __init__(self, stream: IO[bytes], encoding: str, path: str) -> None:
        self._raw = stream
        self._path = path
        self._encoding = encoding
        plain = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
        self._decoder = None if plain else codecs.getincrementaldecoder(encoding)()
        self._buffer = b""
        if plain:
            start = stream.read(len(codecs.BOM_UTF8))
            self._buffer = start.removeprefix(codecs.BOM_UTF8)

    def __enter__(self) -> _Text:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        pieces = [self._buffer]
        have = len(self._buffer)
        while have < size and (piece := self._more(size - have)):
            pieces.append(piece)
            have += len(piece)
        joined = b"".join(pieces)
        self._buffer = joined[size:]
        return joined[:size]

    def skip(self, size: int) -> None:
        """Go `size` bytes on; without reading them where the bytes of the file are the text."""
        buffered = len(self._buffer)
        if self._decoder is None and size > buffered:
            self._buffer = b""
            self._raw.seek(self._raw.tell() + size - buffered)
            return
        while size > 0 and (piece := self.read(min(size, SEGMENT_BYTES))):
            size -= len(piece)

    def unread(self, data: bytes) -> None:
        self._buffer = data + self._buffer

    def line(self) -> bytes:
        """The first line, its end included."""
        data = self.read(1 << 16)
        cut = data.find(b"\n") + 1 or len(data)
        self.unread(data[cut:])
        return data[:cut]

    def lines(self, size: int) -> bytes:
        """About `size` bytes of whole lines; a line end inside quotes does not count."""
        data = b""
        for _ in range(4):
            piece = self.read(size)
            data += piece
            if len(piece) < size:  # the end of the file
                return data
            if cut := _line_end(data):
                break
        else:
            cut = data.rfind(b"\n") + 1 or len(data)  # a stray quote: no even place will come
        self.unread(data[cut:])
        return data[:cut]

    def _more(self, size: int) -> bytes:
        if self._decoder is None:
            return self._raw.read(size)
        piece = self._raw.read(size)
        try:
            text = self._decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{self._path} is not {self._encoding}: {error}. Name it with --encoding.") from error
        if piece and not text:  # half a character
            return self._more(size)
        return text.encode()


def _line_end(data: bytes) -> int:
    """Just behind the last line end that has an even number of quotes before it; 0 when there is none near."""
    cut = data.rfind(b"\n") + 1
    quotes = data.count(b'"', 0, cut)
    for _ in range(1000):
        if cut == 0 or quotes % 2 == 0:
            return cut
        before = data.rfind(b"\n", 0, cut - 1) + 1
        quotes -= data.count(b'"', before, cut)
        cut = before
    return 0


def _encoding(sample: bytes) -> str:
    """By byte-order mark, by the zero bytes of UTF-16, else UTF-8 when the sample is, else Latin-1."""
    for mark, name in _BOMS:
        if sample.startswith(mark):
            return name
    if b"\0" in sample[:512]:
        return "utf-16-le" if sample[1:2] == b"\0" else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _delimiter(header: str, column_map: Mapping[str, str]) -> str:
    """The one that makes most of the header's fields mean something; then the one that makes most fields."""

    def worth(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader(io.StringIO(header), delimiter=delimiter), [])]
        return matched(names, column_map), len(names)

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
