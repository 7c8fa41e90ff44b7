"""What the last ingest of a source saw, so that the next one parses only what is new.

A segment is a stretch of a file (bytes of a delimited file, a row group of a Parquet file) that is parsed as one and
known by the hash of its bytes. For each, the index remembers the days its rows fell on; for each day, its partition.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from millrace.lake.atomic import write_text
from millrace.reading.raw import Segment

INDEX_VERSION: Final = 4
"""Raised when the rules of ingest change: an index of another version is not used."""


@dataclass(kw_only=True, slots=True)
class FileRecord:
    """One file as it was last seen."""

    stamp: str
    carried: str
    """Schema of its carried columns, encoded by `columns.encode_schema`."""
    segments: list[Segment]


@dataclass(kw_only=True, slots=True)
class DayRecord:
    """One partition."""

    hash: str
    """Hex SHA-256 of the Parquet file."""
    rows: int
    first_id: int
    last_id: int
    repeated: dict[str, int] = field(default_factory=dict)
    """Reason → rows of this day that lost against, or clashed with, another row of the same id."""


@dataclass(kw_only=True, slots=True)
class Index:
    """Empty for a source that was never ingested."""

    snapshot: str = ""
    files: dict[str, FileRecord] = field(default_factory=dict)
    days: dict[int, DayRecord] = field(default_factory=dict)
    conflicts: list[tuple[int, int]] = field(default_factory=list)
    """(event id, day) of every row that clashed with another of the same id."""

    def write(self, path: Path) -> None:
        write_text(path, json.dumps({"version": INDEX_VERSION} | asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Index:
        """The index at `path`; an empty one when there is none, or none that this version can use."""
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return cls()

        if document.pop("version", None) != INDEX_VERSION:
            return cls()

        return cls(
            snapshot=document["snapshot"],
            files={name: _file(record) for name, record in document["files"].items()},
            days={int(day): DayRecord(**record) for day, record in document["days"].items()},
            conflicts=[(row, day) for row, day in document["conflicts"]],
        )


def _file(record: dict[str, Any]) -> FileRecord:
    return FileRecord(**record | {"segments": [Segment(**segment) for segment in record["segments"]]})
