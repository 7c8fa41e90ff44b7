"""The log's own journal: records on disk before they are acknowledged, in the database when it has time.

Append-only segments of JSON lines in one folder, of one process at a time. Commits are in groups: all that arrived
while the last one was under way is written and synced (fdatasync) together, and only then acknowledged. So a killed
process loses nothing it said 202 to, and neither does a power cut. One thread reads behind the writing end; a segment
is dropped when all of it is in the database. After a crash the remaining segments are read again from their start.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from millrace.errors import AlreadyRunning, Unavailable
from millrace.observe.progress import log

SEGMENT_BYTES: Final = 16 << 20
MAX_WAITING_BYTES: Final = 32 << 20
"""Of records that are not on disk yet, in memory."""


class JournalFull(Unavailable):
    """The journal has no room: the database has been away, or slower than the events, for too long."""


class Position(NamedTuple):
    """A place in the journal."""

    segment: int
    offset: int


class Journal:
    """`append` is the event loop's, `read` and `drop_before` the writer thread's."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._limit = folder, limit_bytes
        self._segment_bytes = max(1, min(SEGMENT_BYTES, limit_bytes // 4))
        self._lock_file = _lock(folder)
        self._guard = threading.Lock()
        self._arrived = threading.Event()
        self._sizes = {number: _whole_lines(self._path(number)) for number in self._numbers()}
        self._bytes = sum(self._sizes.values())
        self._file = -1
        self._open_next()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._group: asyncio.Future[None] | None = None
        self._committing = False

    @property
    def size_bytes(self) -> int:
        """What lies on disk; the newest segment counts until it is closed and read."""
        return self._bytes

    @property
    def start(self) -> Position:
        """The oldest place."""
        return Position(min(self._sizes), 0)

    @property
    def full(self) -> bool:
        return self._bytes + self._waiting_bytes >= self._limit or self._waiting_bytes >= MAX_WAITING_BYTES

    # Writing: in the event loop

    async def append(self, lines: bytes) -> None:
        """Return when `lines` are on disk; raises JournalFull, or Unavailable when the disk refuses."""
        if self.full:
            raise JournalFull(
                f"the journal holds {self._bytes} of {self._limit} bytes that the database has not taken. "
                "Try again later; if it stays full, look at the database."
            )
        self._waiting.append(lines)
        self._waiting_bytes += len(lines)
        if self._group is None:
            self._group = asyncio.get_running_loop().create_future()
        group = self._group
        if not self._committing:
            self._committing = True
            asyncio.get_running_loop().call_soon(self._commit)
        # Shielded: one client that goes away must not cancel what the others of its group wait for.
        await asyncio.shield(group)

    def _commit(self) -> None:
        group, data = self._group, b"".join(self._waiting)
        assert group is not None
        self._group, self._waiting = None, []
        done = asyncio.get_running_loop().run_in_executor(self._disk, self._write, data)
        done.add_done_callback(lambda finished: self._committed(finished, group, len(data)))

    def _committed(self, done: asyncio.Future[None], group: asyncio.Future[None], size: int) -> None:
        self._waiting_bytes -= size
        if (error := done.exception()) is None:
            group.set_result(None)
        else:
            group.set_exception(Unavailable(f"the journal in {self._folder} cannot be written: {error}"))
            group.exception()  # seen: whoever waited may have gone away
        if self._waiting:
            self._commit()
        else:
            self._committing = False

    def _write(self, data: bytes) -> None:
        """In the disk's thread: all of it or nothing; what a full disk took of it is cut off again."""
        if self._sizes[self._number] >= self._segment_bytes:
            self._open_next()
        start = self._sizes[self._number]
        try:
            if os.pwrite(self._file, data, start) != len(data):
                raise OSError("the disk took a part of it only")
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            raise
        with self._guard:
            self._sizes[self._number] += len(data)
            self._bytes += len(data)
        self._arrived.set()

    def _open_next(self) -> None:
        number = max(self._sizes, default=0) + 1
        opened = os.open(self._path(number), os.O_WRONLY | os.O_CREAT, 0o600)
        _sync_folder(self._folder)
        old, self._file = self._file, opened
        with self._guard:
            self._number = number
            self._sizes[number] = 0
        if old >= 0:
            os.close(old)

    # Reading: in the writer's thread

    def wait(self, timeout_s: float) -> None:
        """Until something was appended, at most `timeout_s`."""
        if self._arrived.wait(timeout_s):
            self._arrived.clear()

    def wake(self) -> None:
        self._arrived.set()

    def read(self, at: Position, most_bytes: int) -> tuple[bytes, Position]:
        """Whole lines from `at` on, about `most_bytes` of them, and the place after them; empty at the end."""
        with self._guard:
            ends = dict(self._sizes)
        for number in sorted(ends):
            offset = at.offset if number == at.segment else 0
            if number >= at.segment and offset < ends[number]:
                lines = self._lines(number, offset, ends[number], most_bytes)
                return lines, Position(number, offset + len(lines))
        return b"", at

    def _lines(self, number: int, offset: int, end: int, most_bytes: int) -> bytes:
        with self._path(number).open("rb") as stream:
            stream.seek(offset)
            lines = stream.read(min(most_bytes, end - offset))
            if not lines.endswith(b"\n"):
                lines += stream.readline()  # never past `end`, which is a line's end
        return lines

    def drop_before(self, place: Position) -> None:
        """Remove segments that are closed and wholly before `place`."""
        with self._guard:
            done = [n for n, size in self._sizes.items() if n < self._number and place >= Position(n, size)]
        for number in done:
            self._path(number).unlink(missing_ok=True)
            with self._guard:
                self._bytes -= self._sizes.pop(number)

    def close(self) -> None:
        """After the last append; what is not in the database stays for the next start."""
        self._disk.shutdown()
        os.close(self._file)
        os.close(self._lock_file)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.jsonl"

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("*.jsonl"))


def _whole_lines(path: Path) -> int:
    """Bytes up to the last line end; a torn last line was never acknowledged and is cut off."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        log("journal_torn_line_cut", segment=path.name, bytes=len(data) - end)
        os.truncate(path, end)
    return end


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(folder: Path) -> int:
    """An open lock file, freed by the system when the process ends, however it ends."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise AlreadyRunning(
            f"another prediction log has the journal in {folder}. Stop it, or use another home."
        ) from error
    return handle
