"""What was pushed since the online store was filled, on disk: a refill replaces the store, and this goes in again.

One file per fill, of journal lines. What is older than the instant that the new fill speaks from came back through
ingest and is dropped; the rest is folded in, which does nothing to a state that has it already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final

import orjson

from millrace.instants import microseconds
from millrace.lake.manifest import Manifest
from millrace.observe.progress import log
from serving.transformer.journal import Entry, read_entries

MAX_BYTES: Final = 256 << 20
"""Of a file; then it becomes the older one of two, and what was that is gone. About two million events."""
GROUP: Final = 100_000
"""Entries in memory while they go in again."""


class Pushed:
    """The files in `folder`; `lake` tells the instant of a fill."""

    def __init__(self, folder: Path, lake: Path) -> None:
        self._folder, self._lake = folder, lake
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, segments: Sequence[Path], fill: str) -> None:
        """Remember journal segments that were pushed into `fill`; the caller drops them afterwards."""
        self._append(fill, (path.read_bytes() for path in segments if path.exists()))

    def of_other_fills(self, fill: str) -> list[Path]:
        """What was pushed into stores that are no more, oldest first."""
        files = (path for path in self._folder.glob("*.jsonl") if path.name.partition(".")[0] != fill)
        return sorted(files, key=lambda path: path.stat().st_mtime_ns)

    def groups(self, path: Path, fill: str) -> Iterator[list[Entry]]:
        """The entries of a file that `fill` may lack, some at a time."""
        since_us = self._as_of_us(fill)
        entries = (entry for entry in read_entries(path) if entry.event_us >= since_us)
        while group := list(islice(entries, GROUP)):
            yield group

    def moved(self, group: Sequence[Entry], fill: str) -> None:
        """Remember entries that are in `fill` now."""
        self._append(fill, (orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE) for entry in group))

    def _append(self, fill: str, lines: Iterator[bytes]) -> None:
        path = self._folder / f"{fill}.jsonl"
        if path.exists() and path.stat().st_size > MAX_BYTES:
            older = self._folder / f"{fill}.older.jsonl"
            log("pushed_entries_forgotten", fill=fill, bytes=older.stat().st_size if older.exists() else 0)
            path.replace(older)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as stream:
            stream.writelines(lines)

    def _as_of_us(self, fill: str) -> int:
        """The instant that the fill speaks from; without the lake that says so the earliest, which keeps everything."""
        folder = self._lake / "online" / fill
        if not (folder / "manifest.json").is_file():
            return -(1 << 63)
        as_of = datetime.fromisoformat(Manifest.read(folder, "online_store").facts["as_of"])
        return microseconds(as_of)
