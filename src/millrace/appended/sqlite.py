"""Appended events in a file beside Feast's SQLite stores; many processes may have it open.

A file of its own, so that an append never waits while `materialize` or a push writes Feast's. One row per entity: its
records, and the number of its last change. A *lane* is a generation of Feast's rows as it was filled last: of each lane
the file knows up to which change its rows have been given what was appended. A commit is handed to the operating
system, so a killed process loses nothing; `sync` brings it to the disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from millrace.appended.records import Entry, Records

FILE: Final = "appended.db"
"""In the folder of a workload, beside its generations (`millrace.lake.feast_home`)."""
BUSY_S: Final = 5.0
"""How long a writer waits for another one."""


@dataclass(frozen=True, slots=True)
class Unpushed:
    """An entity whose row in Feast lacks events, as it was when it was read."""

    key: str
    change: int
    records: bytes


@dataclass(frozen=True, slots=True)
class Lane:
    """Feast's rows of a generation, as they were filled last."""

    generation: str
    fill: str
    """Of a `Fill`; another one replaced rows, and what had been pushed with them."""


class SQLiteEvents:
    """The events of one view in the file at `path`; threads share an object, and take turns."""

    def __init__(self, path: Path, records: Records) -> None:
        self.path, self.records = path, records
        self._lock = threading.Lock()
        self._connection = connection = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # `sync` does it, where no answer waits
        self._table = f'"{records.name}"'
        with self._writing():
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} "
                "(key TEXT PRIMARY KEY, records BLOB NOT NULL, change INTEGER NOT NULL)"
            )
            connection.execute(f'CREATE UNIQUE INDEX IF NOT EXISTS "{records.name}_changes" ON {self._table} (change)')
            connection.execute(
                "CREATE TABLE IF NOT EXISTS lanes (view TEXT, generation TEXT, fill TEXT NOT NULL, "
                "change INTEGER NOT NULL, PRIMARY KEY (view, generation))"
            )
            self._take_over_former()
        self._written = self._synced = 0

    def append(self, entries: Sequence[Entry]) -> None:
        """All of them or none; an event that is there already changes nothing. Raises sqlite3.OperationalError."""
        with self._writing():
            for key, added in self.records.by_key(entries, _now_us()).items():
                self._append(key, added)
        self._written += 1

    def held(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Entity → its records; without those that have none."""
        marks = ", ".join("?" * len(keys))
        with self._lock:
            rows = self._connection.execute(f"SELECT key, records FROM {self._table} WHERE key IN ({marks})", keys)
            return dict(rows.fetchall())

    def unpushed(self, lane: Lane, count: int) -> list[Unpushed]:
        """Up to so many entities whose row in Feast lacks events, the oldest change first."""
        query = f"SELECT key, change, records FROM {self._table} WHERE change > ? ORDER BY change LIMIT ?"
        with self._lock:
            return [Unpushed(*row) for row in self._connection.execute(query, [self._reached(lane), count])]

    def pushed(self, lane: Lane, entities: Sequence[Unpushed]) -> None:
        """The lane's rows have what these, the next ones that were `unpushed`, were read with."""
        if not entities:
            return
        with self._writing():
            reached = max(self._reached(lane), entities[-1].change)
            values = [self.records.name, lane.generation, lane.fill, reached]
            self._connection.execute("INSERT OR REPLACE INTO lanes VALUES (?, ?, ?, ?)", values)

    def unpushed_count(self, lane: Lane) -> int:
        query = f"SELECT count(*) FROM {self._table} WHERE change > ?"
        with self._lock:
            return int(self._connection.execute(query, [self._reached(lane)]).fetchone()[0])

    def sync(self) -> None:
        """Bring what was appended to the disk; cheap where nothing was."""
        written = self._written
        if written == self._synced:
            return
        log = os.open(f"{self.path}-wal", os.O_RDONLY)
        try:
            os.fdatasync(log)
        finally:
            os.close(log)
        with sqlite3.connect(self.path, timeout=BUSY_S) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        connection.close()
        self._synced = written

    def close(self) -> None:
        self._connection.close()

    def _append(self, key: str, added: Sequence[bytes]) -> None:
        row = self._connection.execute(f"SELECT records FROM {self._table} WHERE key = ?", [key]).fetchone()
        held = new = row[0] if row else b""
        for record in added:
            new = self.records.inserted(new, record)
        if new is held:
            return

        self._put(key, new)

    def _put(self, key: str, records: bytes) -> None:
        self._connection.execute(
            f"INSERT OR REPLACE INTO {self._table} SELECT ?, ?, coalesce(max(change), 0) + 1 FROM {self._table}",
            [key, records],
        )

    def _reached(self, lane: Lane) -> int:
        """The last change that the lane's rows have; 0 of a lane that begins."""
        query = "SELECT change FROM lanes WHERE view = ? AND generation = ? AND fill = ?"
        row = self._connection.execute(query, [self.records.name, lane.generation, lane.fill]).fetchone()
        return int(row[0]) if row else 0

    def _take_over_former(self) -> None:
        """What an older release appended, in its form, into the table of this one."""
        former = self.records.former_name
        found = self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [former]).fetchone()
        if not found:
            return
        now_us = _now_us()
        for key, held in self._connection.execute(f'SELECT key, records FROM "{former}"').fetchall():
            self._put(key, self.records.of_former(held, now_us))
        self._connection.execute(f'DROP TABLE "{former}"')

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that no other process writes beside."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise


def _now_us() -> int:
    return time.time_ns() // 1000
