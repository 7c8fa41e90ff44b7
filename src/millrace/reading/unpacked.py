"""What a file is by its first bytes, and its bytes unpacked: gzip, bzip2, xz, Zstandard, a zip with one file in it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import IO, Any, Final

import pyarrow as pa

from millrace.errors import InvalidInput

_PACKED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard"}
_ZIP: Final = b"PK\x03\x04"
_OLD_SHEET: Final = b"\xd0\xcf\x11\xe0"
_NAMED: Final = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ", ".zst": b"\x28\xb5\x2f\xfd", ".zip": _ZIP}
_SHEET_PARTS: Final = ("xl/", "content.xml")


class Format(StrEnum):
    """What rows are written in."""

    PARQUET = "parquet"
    TEXT = "text"
    JSON = "json"
    SHEET = "sheet"


class Unpacked(io.RawIOBase):
    """A stream within a stream: closing it closes both, and its errors have the name of the file."""

    def __init__(self, inner: IO[bytes], outer: Any, name: str) -> None:
        self._inner, self._outer, self._name = inner, outer, name

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with unpacking(self._name):
            return self._inner.read(size)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
            self._outer.close()
        super().close()


def format_of(opened: Callable[[], IO[bytes]], name: str) -> Format:
    """What is in a file; raises InvalidInput where an archive holds several files or cannot be unpacked."""
    with opened() as stream:
        first = stream.read(8)
        if first.startswith(b"PAR1"):
            return Format.PARQUET
        if first.startswith(_OLD_SHEET):
            return Format.SHEET
        if first.startswith(_ZIP):
            stream.seek(0)
            if _is_sheet(stream, name):
                return Format.SHEET
    with unpacked(opened, name) as text, unpacking(name):
        start = text.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return Format.JSON if start[:1] in (b"{", b"[") and (b'"' in start or start.startswith(b"{")) else Format.TEXT


def unpacked(opened: Callable[[], IO[bytes]], name: str) -> IO[bytes]:
    """The bytes of a file as they were before they were packed, by their first bytes and not by its name."""
    stream = opened()
    first = stream.read(8)
    stream.seek(0)
    packed = next((kind for magic, kind in _PACKED.items() if first.startswith(magic)), "")
    wanted = next((magic for suffix, magic in _NAMED.items() if name.lower().endswith(suffix)), b"")
    if first and not first.startswith(wanted):
        stream.close()
        raise InvalidInput(f"{name} cannot be unpacked, it is not what its name says: it begins with {first[:4]!r}")
    with unpacking(name):
        if first.startswith(_ZIP):
            return Unpacked(_member(stream, name), stream, name)  # type: ignore[return-value]
        if packed:
            return Unpacked(_unpacker(packed, stream), stream, name)  # type: ignore[return-value]
    return stream


def _unpacker(packed: str, stream: IO[bytes]) -> Any:
    if packed == "gzip":
        return gzip.GzipFile(fileobj=stream)
    if packed == "bzip2":
        return bz2.BZ2File(stream)
    if packed == "xz":
        return lzma.LZMAFile(stream)
    return pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")


def _members(stream: IO[bytes], name: str) -> tuple[zipfile.ZipFile, list[str]]:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise InvalidInput(f"{name} cannot be unpacked, it is a zip archive that is cut off: {error}") from error
    names = [one for one in archive.namelist() if not one.endswith("/") and not one.startswith("__MACOSX/")]
    return archive, names


def _is_sheet(stream: IO[bytes], name: str) -> bool:
    archive, names = _members(stream, name)
    with archive:
        return any(one.startswith(_SHEET_PARTS) for one in names)


def _member(stream: IO[bytes], name: str) -> IO[bytes]:
    archive, names = _members(stream, name)
    if len(names) != 1:
        raise InvalidInput(
            f"{name} is a zip archive of {len(names)} files, {names[:5]}; unpack it, and name its folder"
        )
    return archive.open(names[0])


@contextmanager
def unpacking(path: str) -> Iterator[None]:
    """Errors of the unpackers, with the name of the file."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path} cannot be unpacked, it is cut off or not what its name says: {error}") from error
    except OSError as error:
        if isinstance(error, InvalidInput):
            raise
        told = str(error)
        if error.errno is not None or ("data stream" not in told and "ZSTD" not in told and "truncated" not in told):
            raise
        raise InvalidInput(f"{path} cannot be unpacked, it is cut off or not what its name says: {error}") from error
