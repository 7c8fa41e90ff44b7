"""Where raw events lie: a file, a folder or a glob behind any fsspec URI, or a database, as files in name order.

What a file is follows from its first bytes; how it is unpacked is `unpacked.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final
from uuid import uuid4

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from millrace.errors import ConfigError, InvalidInput, NotFound
from millrace.lake.manifest import content_id
from millrace.observe.progress import log
from millrace.reading.document import DEFAULTS, ReadOptions
from millrace.reading.redaction import redacting
from millrace.reading.sheets import sheet_text
from millrace.reading.spool import spooled_once
from millrace.reading.tables import is_database, shown_table, table_text
from millrace.reading.unpacked import Format, format_of, unpacked
from millrace.uris import redacted

PARQUET: Final = frozenset({".parquet", ".pq", ".parq"})
TEXTS: Final = frozenset({".csv", ".tsv", ".psv", ".txt", ".json", ".jsonl", ".ndjson"})
SHEETS: Final = frozenset({".xlsx", ".xls", ".xlsb", ".ods"})
COMPRESSED: Final = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip"})
READ: Final = PARQUET | TEXTS | SHEETS
_HTTP_VERSION: Final = ("ETag", "Last-Modified", "Content-MD5", "Digest")
_GLOB: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the source."""

    fs: fsspec.AbstractFileSystem
    path: str
    """Path inside `fs`."""
    stamp: str
    """Changes when the file changes: size and modification time, or what the store says (ETag, Last-Modified)."""
    known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What was found out about it."""

    @property
    def name(self) -> str:
        """The path as it may be shown and kept."""
        return redacted(self.path)

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def raw(self) -> IO[bytes]:
        """Its bytes as they are."""
        return self.fs.open(self.path, "rb")  # type: ignore[no-any-return]

    @property
    def format(self) -> Format:
        """What its rows are written in, by its first bytes; a name that ends in .parquet is believed."""
        if "format" not in self.known:
            named = Path(self.path.lower()).suffix in PARQUET
            self.known["format"] = Format.PARQUET if named else format_of(self.raw, self.name)
        return self.known["format"]  # type: ignore[no-any-return]

    def open(self, read: ReadOptions = DEFAULTS) -> IO[bytes]:
        """Its text: unpacked, a sheet as delimited text."""
        if self.format is Format.SHEET:
            return spooled_once(self.known, lambda: sheet_text(self.raw, self.name, read))
        return unpacked(self.raw, self.name)


@dataclass(frozen=True, slots=True)
class TableFile:
    """What a query of a database gives, as one file of delimited text; read anew each time."""

    uri: str
    stamp: str = field(default_factory=lambda: uuid4().hex)
    known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        return shown_table(self.uri)

    @property
    def local(self) -> bool:
        return False

    @property
    def format(self) -> Format:
        return Format.TEXT

    def open(self, read: ReadOptions = DEFAULTS) -> IO[bytes]:
        return spooled_once(self.known, lambda: table_text(self.uri, read))


def list_files(source: str) -> list[SourceFile | TableFile]:
    """The files of `source`, sorted by path; raises NotFound when there are none, ConfigError for a protocol
    that is not installed, InvalidInput for what is no path or URI.
    """
    if is_database(source):
        return [TableFile(source)]
    with redacting():
        return _listed(source)


def _listed(source: str) -> list[SourceFile | TableFile]:
    shown = redacted(source)
    try:
        fs, path = url_to_fs(str(Path(source).expanduser()) if "://" not in source else source)
    except ImportError as error:
        raise ConfigError(f"{shown}: its protocol needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise InvalidInput(f"{shown} is not a path or URI that can be read: {redacted(str(error))}") from None

    fs.invalidate_cache()  # object stores remember listings for as long as the process lives
    paths = sorted(_expand(fs, path, shown))
    if not paths:
        wanted = ", ".join(sorted(READ))
        raise NotFound(f"no events at {shown}. Wanted a file, a folder or a glob of files ending in {wanted}.")

    files: list[SourceFile | TableFile] = [SourceFile(fs, path, _stamp(fs, path)) for path in paths]
    if len({file.name for file in files}) < len(files):
        raise InvalidInput(f"{shown}: some files differ in nothing but their query; wanted a name for each")
    return files


def canonical_uri(source: str) -> str:
    """The same name for the same place: a local path is absolute."""
    if "://" in source or is_database(source):
        return source.rstrip("/")
    return str(Path(source).expanduser().absolute())


def _stamp(fs: Any, path: str) -> str:
    """For HTTP, which fsspec takes for unchanging, of what the server says about the file; a new one each time where
    it says nothing but the size.
    """
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if not protocols & {"http", "https"}:
        return str(fs.ukey(path))
    info = fs.info(path)
    said = {name: str(info[name]) for name in _HTTP_VERSION if info.get(name)}
    return content_id(said | {"size": info.get("size")}) if said else uuid4().hex


def _expand(fs: Any, path: str, shown: str) -> list[str]:
    if fs.isfile(path):
        return [path]

    folder = isinstance(fs, LocalFileSystem) and fs.isdir(path)  # whose name may have brackets in it
    if _GLOB & set(path) and not folder:
        return [found for found in fs.glob(path) if fs.isfile(found)]
    if not fs.isdir(path):
        raise NotFound(f"{shown} does not exist")

    below = [found for found in fs.find(path) if not _hidden(found, path)]
    known = [found for found in below if _suffix(found) in READ]
    if len(known) < len(below):
        log("ingest ignores files", count=len(below) - len(known), first=redacted(min(set(below) - set(known))))
    return known


def _suffix(path: str) -> str:
    """The suffix that tells the format, in lower case, below one that tells the compression."""
    name = Path(path.lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


def _hidden(path: str, root: str) -> bool:
    """Files being written (`.x.parquet`) and markers (`_SUCCESS`) are not events."""
    return any(part.startswith((".", "_")) for part in Path(path[len(root) :]).parts)
