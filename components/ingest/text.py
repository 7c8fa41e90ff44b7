"""Text of a file as UTF-8, line by line: its encoding and line ends found out, what is no text named.

Old exports end lines with a carriage return alone; those are read as line ends, so that positions stay what they are.
"""

from __future__ import annotations

import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from millrace.errors import InvalidInput

SEGMENT_BYTES: Final = 16 << 20
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_NO_TEXT: Final = {
    b"PK\x03\x04": "a zip archive, as an Excel workbook is: export it as CSV",
    b"\x1f\x8b": "gzip-compressed: let its name end in .gz",
    b"BZh": "bzip2-compressed: let its name end in .bz2",
    b"\xfd7zXZ": "xz-compressed: let its name end in .xz",
    b"PAR1": "Parquet: let its name end in .parquet",
}
"""First bytes of what people call .csv and is none."""


class Text:
    """Bytes of a text stream as UTF-8, in pieces of the asked size or cut at a line end."""

    def __init__(self, stream: IO[bytes], encoding: str, path: str, *, carriage_returns: bool = False) -> None:
        self._raw = stream
        self._path = path
        self._encoding = encoding
        self._carriage_returns = carriage_returns

        plain = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
        self._decoder = None if plain else codecs.getincrementaldecoder(encoding)()
        self._buffer = b""

        if plain:
            with unpacking(path):
                start = stream.read(len(codecs.BOM_UTF8))
            self._buffer = self._ended(start.removeprefix(codecs.BOM_UTF8))

    def __enter__(self) -> Text:
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

    def head(self) -> tuple[bytes, bytes, str]:
        """Lines above the header (empty ones, and Excel's `sep=;`), the header, the delimiter that is named there."""
        above, named = b"", ""
        while line := self.line():
            plain = line.rstrip(b"\r\n")
            if len(plain) == 5 and plain.lower().startswith(b"sep="):
                named = chr(plain[4])
            elif plain.strip():
                return above, line, named
            above += line
        return above, b"", named

    def lines(self, size: int) -> bytes:
        """About `size` bytes of whole lines; a line end inside quotes does not count."""
        data = b""
        for _ in range(4):
            piece = self.read(size)
            data += piece
            if len(piece) < size:  # the end of the file
                return data
            cut = _line_end(data)
            if cut:
                break
        else:
            cut = data.rfind(b"\n") + 1 or len(data)  # a stray quote: no even place will come

        self.unread(data[cut:])
        return data[:cut]

    def _more(self, size: int) -> bytes:
        with unpacking(self._path):
            piece = self._raw.read(size)

        if self._decoder is None:
            return self._ended(piece)
        try:
            text = self._decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{self._path} is not {self._encoding}: {error}. Name it with --encoding.") from error

        if piece and not text:  # half a character
            return self._more(size)
        return self._ended(text.encode())

    def _ended(self, piece: bytes) -> bytes:
        return piece.replace(b"\r", b"\n") if self._carriage_returns else piece


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


def encoding_of(sample: bytes) -> str:
    """The encoding by byte-order mark or the zero bytes of UTF-16, else UTF-8 when the sample is, else Latin-1."""
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


def ends_in_carriage_returns(sample: bytes) -> bool:
    """Whether lines end as on the first Macintoshes, which Excel still offers."""
    return b"\r" in sample and b"\n" not in sample


def require_text(sample: bytes, path: str) -> None:
    """Raises InvalidInput for bytes that are no delimited text, with what they are."""
    if not sample.strip(b"\0 \t\r\n"):
        raise InvalidInput(f"{path} is empty; wanted a header line and rows")
    for first, what in _NO_TEXT.items():
        if sample.startswith(first):
            raise InvalidInput(f"{path} is {what}.")


@contextmanager
def unpacking(path: str) -> Iterator[None]:
    """Errors of the unpackers of .gz, .bz2 and .xz, with the name of the file."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise InvalidInput(f"{path} cannot be unpacked, it is cut off or not what its name says: {error}") from error
    except OSError as error:
        if error.errno is not None or "data stream" not in str(error):  # bz2 has no error of its own
            raise
        raise InvalidInput(f"{path} cannot be unpacked, it is not what its name says: {error}") from error
