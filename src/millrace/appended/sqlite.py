"""Appended events in a file beside Feast's SQLite store; many processes may have it open.

A file of its own, so that an append never waits while `materialize` or a push writes Feast's. One row per entity: its
records, and two numbers that say whether Feast's row has them. A commit is handed to the operating system, so a killed
process loses nothing; `sync` brings it to the disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from millrace.appended.records import Entry, Records

FILE: Final = "appended.db"
"""In the repository of a workload, beside `millrace.lake.feast_home.DATABASE`."""
BUSY_S: Final = 5.0
"""How long a writer waits for another one."""
CHUNK: Final = 500
"""Entities of a transaction after a refill: some milliseconds."""


@dataclass(frozen=True, slots=True)
class Unpushed:
    """An entity whose row in Feast lacks events, as it was when it was read."""

    key: str
    version: int
    records: bytes


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
                "(key TEXT PRIMARY KEY, records BLOB NOT NULL, version INTEGER NOT NULL, pushed INTEGER NOT NULL)"
            )
            connection.execute(
                f'CREATE INDEX IF NOT EXISTS "{records.name}_unpushed" ON {self._table} (key) WHERE version > pushed'
            )
            connection.execute("CREATE TABLE IF NOT EXISTS pushed_into (view TEXT PRIMARY KEY, fill TEXT NOT NULL)")
        self._written = self._synced = 0

    def append(self, entries: Sequence[Entry]) -> None:
        """All of them or none; an event that is there already changes nothing. Raises sqlite3.OperationalError."""
        with self._writing():
            for key, added in self.records.by_key(entries).items():
                self._append(key, added)
        self._written += 1

    def held(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Entity → its records; without those that have none."""
        marks = ", ".join("?" * len(keys))
        with self._lock:
            rows = self._connection.execute(f"SELECT key, records FROM {self._table} WHERE key IN ({marks})", keys)
            return dict(rows.fetchall())

    def unpushed(self, count: int) -> list[Unpushed]:
        """Up to so many entities whose row in Feast lacks events."""
        query = f"SELECT key, version, records FROM {self._table} WHERE version > pushed LIMIT ?"
        with self._lock:
            return [Unpushed(*row) for row in self._connection.execute(query, [count])]

    def pushed(self, entities: Sequence[Unpushed]) -> None:
        """Feast's rows have what these were read with; what came since is still to be pushed."""
        with self._writing():
            self._connection.executemany(
                f"UPDATE {self._table} SET pushed = ? WHERE key = ? AND pushed < ?",
                [(one.version, one.key, one.version) for one in entities],
            )

    def unpushed_count(self) -> int:
        with self._lock:
            row = self._connection.execute(f"SELECT count(*) FROM {self._table} WHERE version > pushed").fetchone()
        return int(row[0])

    def refilled(self, fill: str, as_of_us: int) -> int:
        """Feast's rows were replaced by those of `fill`, which speaks from an instant; returns how many go in again.

        What had been pushed and is older came back through ingest, and is dropped; the rest is to be pushed again. A
        kill in between leaves the former fill on record, and it is done again. Cheap for a fill that is on record.
        """
        if self._pushed_into() == fill:
            return 0

        with self._writing():  # a push into the former rows that is on its way must not count for these
            self._connection.execute(f"UPDATE {self._table} SET version = version + 1 WHERE version > pushed")
        count, after = 0, ""
        while True:
            with self._writing():
                if self._pushed_into() == fill:  # another process was quicker
                    return count
                rows = self._some_pushed(after)
                for key, held in rows:
                    count += self._put_back(key, self.records.since(held, as_of_us))
                if not rows:
                    values = [self.records.name, fill]
                    self._connection.execute("INSERT OR REPLACE INTO pushed_into VALUES (?, ?)", values)
                    return count
            after = rows[-1][0]

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

        self._connection.execute(
            f"INSERT INTO {self._table} VALUES (?, ?, 1, 0) "
            "ON CONFLICT (key) DO UPDATE SET records = excluded.records, version = version + 1",
            [key, new],
        )

    def _pushed_into(self) -> str | None:
        """The fill whose rows have everything but what is `unpushed`; None before the first one."""
        query = "SELECT fill FROM pushed_into WHERE view = ?"
        row = self._connection.execute(query, [self.records.name]).fetchone()
        return row[0] if row else None

    def _some_pushed(self, after: str) -> list[tuple[str, bytes]]:
        query = f"SELECT key, records FROM {self._table} WHERE key > ? AND version = pushed ORDER BY key LIMIT ?"
        return self._connection.execute(query, [after, CHUNK]).fetchall()

    def _put_back(self, key: str, records: bytes) -> bool:
        """Whether something is left; a new version, so that a push of the old one on its way does not count for it."""
        step = 1 if records else 0
        self._connection.execute(
            f"UPDATE {self._table} SET records = ?, version = version + ? WHERE key = ?", [records, step, key]
        )
        return bool(records)

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
