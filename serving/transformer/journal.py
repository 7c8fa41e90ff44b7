"""The journal: scored events whose recent view is not in the online store yet, on disk before the answer.

Append-only segments of JSON lines in one folder. A line is handed to the operating system before the answer goes out,
so a killed process loses nothing; it is synced to disk every `SYNC_INTERVAL_S`, so a power cut loses at most that.
Segments are dropped whole, once everything in them has been pushed. Replaying a line that was pushed is harmless: a
state takes an event once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from millrace.errors import AlreadyRunning, Unavailable
from millrace.observe.progress import log

SYNC_INTERVAL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Entry:
    """What the recent view remembers of one event."""

    event_id: int
    key: str
    """Of the view's entity; a pseudonym where that is pseudonymised."""
    event_us: int
    values: tuple[float, ...]
    """What else the view keeps, in the order of its fields."""


class Journal:
    """The segments in `folder`, of one process at a time (raises AlreadyRunning). Never `rotate` during a `sync`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = _lock(folder)
        numbers = [_number(path) for path in self._segments()]
        self._number = max(numbers, default=0)
        self._file = -1
        self._size = 0
        self._written = self._synced = 0
        self.rotate()

    def replay(self) -> Iterator[Entry]:
        """Entries of all segments, oldest first."""
        for path in self._segments():
            yield from read_entries(path)

    def append(self, entries: Sequence[Entry]) -> None:
        """Write before answering; raises Unavailable when the disk refuses, and then the answer must not go out."""
        data = b"".join(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE) for entry in entries)
        try:
            self._write(data)
        except OSError as error:
            raise Unavailable(f"the journal in {self._folder} cannot be written: {error}") from error
        self._written += 1

    def _write(self, data: bytes) -> None:
        """All of it or nothing: what a full disk took of it is cut off again."""
        try:
            if os.write(self._file, data) != len(data):
                raise OSError("the disk took a part of it only")
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)

    @property
    def dirty(self) -> bool:
        return self._written > self._synced

    def sync(self) -> None:
        """Bring what was appended to the disk; may run in a thread beside `append`."""
        written = self._written
        os.fdatasync(self._file)
        self._synced = written

    def rotate(self) -> list[Path]:
        """Begin a new segment; returns the closed ones, which `drop` removes once their states are pushed.

        When the disk refuses (OSError), the old segment goes on. The three steps are apart for an event loop, which
        must not wait for a disk: `open_segment` and `close_segment` may run in a thread, `switch` where `append` does.
        """
        closed, old = self.switch(self.open_segment())
        self.close_segment(old)
        return closed

    def open_segment(self) -> int:
        """A file for what comes after the next `switch`."""
        return os.open(self._path(self._number + 1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def switch(self, opened: int) -> tuple[list[Path], int]:
        """Append to `opened` from now on; returns the segments before it, and the file to close."""
        closed = [path for path in self._segments() if _number(path) <= self._number]
        old, self._file = self._file, opened
        self._size = os.fstat(opened).st_size  # nobody else appends to it
        self._number += 1
        self._synced = self._written
        return closed, old

    @staticmethod
    def close_segment(file: int) -> None:
        """Bring it to the disk; -1 is none."""
        if file >= 0:
            try:
                os.fdatasync(file)
            finally:
                os.close(file)

    @staticmethod
    def drop(segments: Sequence[Path]) -> None:
        for path in segments:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        os.fdatasync(self._file)
        os.close(self._file)
        os.close(self._lock)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.jsonl"

    def _segments(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"), key=_number)


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of a file. An unreadable line is reported; a torn last one was never answered."""
    with path.open("rb") as stream:
        for place, line in enumerate(stream, start=1):
            try:
                if line.strip():
                    yield _entry(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError) as error:
                log("journal_line_skipped", file=path.name, line=place, torn=line[-1:] != b"\n", error=str(error))


def _entry(*, event_id: int, key: str, event_us: int, values: list[float]) -> Entry:
    return Entry(event_id, key, event_us, tuple(values))


def _number(path: Path) -> int:
    return int(path.stem)


def _lock(folder: Path) -> int:
    """An open lock file, freed by the system when the process ends, however it ends."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise AlreadyRunning(
            f"another transformer has the journal in {folder}. Stop it, or use another home."
        ) from error
    return handle
