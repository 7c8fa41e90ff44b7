"""What the stream of a home owes its disk, in a thread of the process that appends: sync, checkpoints, retention.

Every 0.2 s what was appended is brought to the disk, old events that every group has taken are deleted in small
pieces, and a long write-ahead log is copied into the database.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from millrace.events.stream import TOPICS, Keep
from millrace.observe.progress import log

SYNC_INTERVAL_S: Final = 0.2
TRIM_ROWS: Final = 1000
"""Events deleted at a time: about 5 ms during which appends wait."""
WAL_BYTES: Final = 16 << 20


class Upkeep(threading.Thread):
    """Runs until `stop`; `dirty` says that something was appended."""

    def __init__(self, path: Path, keep: Keep, oldest_wanted: Callable[[str], int | None]) -> None:
        super().__init__(name="stream-upkeep", daemon=True)
        self._path, self._keep, self._oldest_wanted = path, keep, oldest_wanted
        self._wal = path.with_name(f"{path.name}-wal")
        self._appended, self._stopping = threading.Event(), threading.Event()
        self._trouble = ""

    def dirty(self) -> None:
        self._appended.set()

    def stop(self) -> None:
        """Sync once more and end."""
        self._stopping.set()
        self._appended.set()
        self.join()

    def run(self) -> None:
        connection = sqlite3.connect(self._path, timeout=1.0, isolation_level=None)
        connection.execute("PRAGMA synchronous=NORMAL")
        try:
            stopping = False
            while not stopping:
                self._appended.wait()
                stopping = self._stopping.wait(SYNC_INTERVAL_S)
                self._appended.clear()
                self._look_after(connection)
        finally:
            connection.close()

    def _look_after(self, connection: sqlite3.Connection) -> None:
        trouble = ""
        try:
            self._sync()
            for topic in TOPICS:
                self._trim(connection, topic)
            self._checkpoint(connection)
        except Exception as error:  # noqa: BLE001 - a disk that is full now has room again later
            trouble = str(error)
        if trouble and trouble != self._trouble:
            log("stream_upkeep_failed", error=trouble, folder=str(self._path.parent))
        self._trouble = trouble

    def _sync(self) -> None:
        """Bring the write-ahead log to the disk; it is absent when all of it is in the database already."""
        with suppress(FileNotFoundError):
            file = os.open(self._wal, os.O_RDWR)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _trim(self, connection: sqlite3.Connection, topic: str) -> None:
        """Delete the oldest events of a topic that are too many or too old, and that no group waits for."""
        newest = connection.execute("SELECT max(position) FROM entries").fetchone()[0] or 0
        wanted = self._oldest_wanted(topic)
        limits = (topic, newest if wanted is None else wanted, TRIM_ROWS)
        oldest = "SELECT position, at FROM entries WHERE topic = ? AND position < ? ORDER BY position LIMIT ?"
        past = f"SELECT max(position) FROM ({oldest}) WHERE at < ? OR position <= ?"
        too_old = (time.time() - self._keep.age_s, newest - self._keep.events)
        last = connection.execute(past, (*limits, *too_old)).fetchone()[0]
        if last is not None:
            connection.execute("DELETE FROM entries WHERE topic = ? AND position <= ?", (topic, last))

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Copy a long log into the database beside the appends; then wait for a moment when it can begin anew."""
        if self._wal.exists() and self._wal.stat().st_size > WAL_BYTES:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
