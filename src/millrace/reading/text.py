"""Text of a file as UTF-8, line by line: its encoding and line ends found out, what is no text named.

Old exports end lines with a carriage return alone; those are read as line ends, so that positions stay what they are.
"""

from __future__ import annotations

import codecs
from typing import IO, Final

from millrace.errors import InvalidInput
from millrace.reading.unpacked import unpacking

SEGMENT_BYTES: Final = 16 << 20
_ONE_BYTE: Final = (
    "cp1252", "latin_1", "iso8859_15", "cp1250", "iso8859_2", "cp1251", "koi8_r", "cp1253", "cp1254",
    "shift_jis", "gb18030", "big5", "euc_kr", "mac_roman", "cp850",
)  # fmt: skip
"""Encodings that exports are written in, where it is not Unicode."""
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


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
        if self._decoder is None and size > buffered and self._raw.seekable():
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

    def head(self, skip: int = 0) -> tuple[bytes, bytes, str]:
        """Lines above the header (`skip` of them, empty ones, and Excel's `sep=;`), the header, the delimiter that is
        named there."""
        above, named = b"", ""
        for _ in range(skip):
            above += self.line()
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
    """The encoding by byte-order mark or the zero bytes of UTF-16, else UTF-8 when the sample is, else a guess."""
    for mark, name in _BOMS:
        if sample.startswith(mark):
            return name

    if b"\0" in sample[:512]:
        return "utf-16-le" if sample[1:2] == b"\0" else "utf-16-be"

    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return _one_byte_encoding(sample)
    return "utf-8"


def _one_byte_encoding(sample: bytes) -> str:
    """What charset-normalizer makes of the lines that are not ASCII; Latin-1 where it cannot tell."""
    from charset_normalizer import from_bytes  # a second of tables that UTF-8 does not need

    lines = [line for line in sample.splitlines() if not line.isascii()][:200]
    found = from_bytes(b"\n".join(lines), cp_isolation=list(_ONE_BYTE)).best()
    return "latin-1" if found is None else str(found.encoding)


def ends_in_carriage_returns(sample: bytes) -> bool:
    """Whether lines end as on the first Macintoshes, which Excel still offers."""
    return b"\r" in sample and b"\n" not in sample


def require_text(sample: bytes, path: str) -> None:
    """Raises InvalidInput for an empty file, and for bytes that are no text."""
    if not sample.strip(b"\0 \t\r\n\xef\xbb\xbf\xff\xfe"):
        raise InvalidInput(f"{path} is empty; wanted a header line and rows")
    if b"\0" in sample and not _wide(sample):
        raise InvalidInput(f"{path} is no text: it has zero bytes, and begins with {sample[:8]!r}. Export it as CSV.")


def _wide(sample: bytes) -> bool:
    """Whether every other byte of the beginning is zero, as in UTF-16 of western text."""
    if sample.startswith(_BOMS[1][0]) or sample.startswith(_BOMS[2][0]):
        return True
    start = sample[:512]
    return max(start[0::2].count(0), start[1::2].count(0)) > len(start) // 4
