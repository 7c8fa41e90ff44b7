"""The stream of a home: SQLite in WAL mode, for several processes of one machine.

Events are in one file, and what groups have taken in a second one beside it: an append waits for other appends only,
never for a reader's bookkeeping. An append is one transaction, handed to the operating system when it returns. A thread
(`sqlite_upkeep.py`) brings it to the disk every 0.2 s.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from millrace.errors import Unavailable
from millrace.events.sqlite_upkeep import Upkeep
from millrace.events.stream import CLAIM_AFTER_S, Entry, Group, Keep, Lag, Refused

BUSY_S: Final = 3.0
"""What a transaction waits for another process's."""
POLL_S: Final = 0.05
ENTRIES: Final = """
CREATE TABLE IF NOT EXISTS entries (
    position INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, id TEXT NOT NULL,
    addressee TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entries_by_topic ON entries (topic, position);
"""
"""`addressee`: the one group that an event is for, or empty for all."""
GROUPS: Final = """
CREATE TABLE IF NOT EXISTS groups (
    topic TEXT, name TEXT, cursor INTEGER NOT NULL, PRIMARY KEY (topic, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS handed (
    topic TEXT, name TEXT, position INTEGER, consumer TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (topic, name, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused (
    number INTEGER PRIMARY KEY, topic TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL,
    reason TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL);
"""
OF_GROUP: Final = "topic = ? AND name = ?"


class SqliteStream:
    """A `Stream` in the file `path`; one for each process, safe to call from several threads."""

    def __init__(self, path: Path, keep: Keep) -> None:
        self._path, self._keep = path, keep
        self._upkeep: Upkeep | None = None
        self._begun: dict[tuple[Group, str], int] = {}
        self._guard = threading.RLock()
        beside = path.with_name(f"{path.stem}-groups.db")
        with self._ours():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._entries, self._groups = _opened(path, ENTRIES), _opened(beside, GROUPS)
            self._entries.execute("PRAGMA wal_autocheckpoint=0")  # the upkeep's thread does it: no append waits for it

    def append(self, topic: str, events: Sequence[bytes], ids: Sequence[str], addressee: str = "") -> None:
        """As `Stream` says; `addressee` is the one group that the events are for."""
        now = time.time()
        rows = [(topic, id_, addressee, now, body) for id_, body in zip(ids, events, strict=True)]
        insert = "INSERT INTO entries (topic, id, addressee, at, body) VALUES (?, ?, ?, ?, ?)"
        with self._writing(self._entries) as connection:
            connection.executemany(insert, rows)
        self._keep_up()

    def read(self, group: Group, consumer: str, limit: int, wait_s: float) -> list[Entry]:
        ends = time.monotonic() + wait_s
        try:
            found = self._take(group, consumer, limit)
            while not found and time.monotonic() < ends:
                time.sleep(POLL_S)
                found = self._take(group, consumer, limit)
        except Unavailable:
            self._begun.pop((group, consumer), None)
            raise
        return found

    def acknowledge(self, group: Group, positions: Collection[str]) -> None:
        with self._writing(self._groups) as connection:
            _forget_handed(connection, group, positions)

    def set_aside(self, group: Group, entry: Entry, reason: str) -> None:
        row = (*group, entry.id, reason, time.time(), entry.body)
        with self._writing(self._groups) as connection:
            _forget_handed(connection, group, [entry.position])
            connection.execute("INSERT INTO refused (topic, name, id, reason, at, body) VALUES (?, ?, ?, ?, ?, ?)", row)

    def refused(self, limit: int = 1000) -> list[Refused]:
        query = "SELECT topic, name, id, reason, at, body FROM refused ORDER BY number LIMIT ?"
        with self._ours():
            rows = self._groups.execute(query, (limit,)).fetchall()
        return [Refused(Group(topic, name), *rest) for topic, name, *rest in rows]

    def send_again(self, ids: Collection[str] = ()) -> int:
        with self._writing(self._groups) as connection:
            rows = connection.execute("SELECT number, topic, name, id, body FROM refused ORDER BY number").fetchall()
            chosen = [row for row in rows if not ids or row[3] in ids]
            for number, topic, name, id_, body in chosen:
                # Killed between the two files, the event is there twice, and its consumer knows it by its id.
                self.append(topic, [body], [id_], name)
                connection.execute("DELETE FROM refused WHERE number = ?", (number,))
        return len(chosen)

    def groups(self) -> list[Group]:
        with self._ours():
            rows = self._groups.execute("SELECT topic, name FROM groups").fetchall()
        return [Group(*row) for row in rows]

    def lag(self, group: Group) -> Lag:
        with self._ours():
            cursor = _cursor(self._groups, group)
            handed = self._groups.execute(
                f"SELECT count(*), min(position) FROM handed WHERE {OF_GROUP}", group
            ).fetchone()
            new = self._entries.execute(
                "SELECT count(*), min(position) FROM entries WHERE topic = ? AND position > ?", (group.topic, cursor)
            ).fetchone()
            oldest = min((position for position in (handed[1], new[1]) if position is not None), default=None)
            at = self._entries.execute("SELECT at FROM entries WHERE position = ?", (oldest,)).fetchone()
            refused = self._groups.execute(f"SELECT count(*) FROM refused WHERE {OF_GROUP}", group).fetchone()[0]
        return Lag(handed[0] + new[0], max(0.0, time.time() - at[0]) if at else 0.0, refused)

    def forget(self, group: Group) -> None:
        with self._writing(self._groups) as connection:
            for table in ("groups", "handed", "refused"):
                connection.execute(f"DELETE FROM {table} WHERE {OF_GROUP}", group)

    def close(self) -> None:
        if self._upkeep is not None:
            self._upkeep.stop()
        with self._guard:
            self._entries.close()
            self._groups.close()

    def _take(self, group: Group, consumer: str, limit: int) -> list[Entry]:
        """What this consumer had before, then what a dead one left, then what is new."""
        with self._writing(self._groups) as connection:
            again = self._unfinished(connection, group, consumer, limit)
            if not again:
                again = _abandoned(connection, group, consumer, limit)
            if not again:
                return self._new(connection, group, consumer, limit)

            _hand(connection, group, consumer, again)
            query = "SELECT position, id, body FROM entries WHERE position = ?"
            found = [self._entries.execute(query, (position,)).fetchone() for position in again]
            return [Entry(str(position), id_, body) for position, id_, body in found]

    def _unfinished(self, connection: sqlite3.Connection, group: Group, consumer: str, limit: int) -> list[int]:
        """What this consumer was handed before it came here and has not acknowledged."""
        begun = self._begun.get((group, consumer), 0)
        if begun < 0:
            return []
        mine = f"{OF_GROUP} AND consumer = ? AND position > ?"
        query = f"SELECT position FROM handed WHERE {mine} ORDER BY position LIMIT ?"
        found = [row[0] for row in connection.execute(query, (*group, consumer, begun, limit))]
        self._begun[group, consumer] = found[-1] if found else -1
        return found

    def _new(self, connection: sqlite3.Connection, group: Group, consumer: str, limit: int) -> list[Entry]:
        cursor = _cursor(connection, group)
        new = "SELECT position, id, body, addressee FROM entries WHERE topic = ? AND position > ?"
        rows = self._entries.execute(f"{new} ORDER BY position LIMIT ?", (group.topic, cursor, limit)).fetchall()
        mine = [row for row in rows if row[3] in ("", group.name)]
        _hand(connection, group, consumer, [row[0] for row in mine])
        if rows or not _known(connection, group):
            reached = rows[-1][0] if rows else cursor
            connection.execute("REPLACE INTO groups (topic, name, cursor) VALUES (?, ?, ?)", (*group, reached))
        return [Entry(str(position), id_, body) for position, id_, body, _ in mine]

    def _keep_up(self) -> None:
        with self._guard:
            if self._upkeep is None:
                self._upkeep = Upkeep(self._path, self._keep, self._oldest_wanted)
                self._upkeep.start()
        self._upkeep.dirty()

    def _oldest_wanted(self, topic: str) -> int | None:
        """The first position of a topic that some group has not acknowledged; None where nobody reads it."""
        with self._ours():
            cursors = self._groups.execute("SELECT min(cursor) FROM groups WHERE topic = ?", (topic,)).fetchone()[0]
            handed = self._groups.execute("SELECT min(position) FROM handed WHERE topic = ?", (topic,)).fetchone()[0]
        wanted = [] if cursors is None else [cursors + 1]
        return min([*wanted, handed] if handed is not None else wanted, default=None)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Errors of the database as Unavailable, one thread at a time."""
        try:
            with self._guard:
                yield
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(
                f"the event stream in {self._path.parent} cannot be used: {error}. "
                "Look at that folder: free space, and whether this user may write there."
            ) from error

    @contextmanager
    def _writing(self, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        """One transaction; writers queue at its begin."""
        with self._ours():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def _opened(path: Path, tables: str) -> sqlite3.Connection:
    """WAL: readers never wait for the writer. NORMAL: a commit is the operating system's, not yet the disk's."""
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(tables)
    return connection


def _cursor(connection: sqlite3.Connection, group: Group) -> int:
    """The last position that was handed to the group for the first time."""
    row = connection.execute(f"SELECT cursor FROM groups WHERE {OF_GROUP}", group).fetchone()
    return int(row[0]) if row else 0


def _known(connection: sqlite3.Connection, group: Group) -> bool:
    return connection.execute(f"SELECT 1 FROM groups WHERE {OF_GROUP}", group).fetchone() is not None


def _abandoned(connection: sqlite3.Connection, group: Group, consumer: str, limit: int) -> list[int]:
    """What other consumers were handed long ago and have not acknowledged."""
    theirs = f"{OF_GROUP} AND consumer <> ? AND at < ?"
    query = f"SELECT position FROM handed WHERE {theirs} ORDER BY position LIMIT ?"
    return [row[0] for row in connection.execute(query, (*group, consumer, time.time() - CLAIM_AFTER_S, limit))]


def _hand(connection: sqlite3.Connection, group: Group, consumer: str, positions: Sequence[int]) -> None:
    rows: list[tuple[Any, ...]] = [(*group, position, consumer, time.time()) for position in positions]
    connection.executemany("REPLACE INTO handed (topic, name, position, consumer, at) VALUES (?, ?, ?, ?, ?)", rows)


def _forget_handed(connection: sqlite3.Connection, group: Group, positions: Collection[str]) -> None:
    rows = [(*group, int(position)) for position in positions]
    connection.executemany(f"DELETE FROM handed WHERE {OF_GROUP} AND position = ?", rows)
