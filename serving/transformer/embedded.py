"""The laptop's online store: Feast's SQLite file, and what was appended in a file beside it.

A lookup reads an entity's row and its appended events in one statement, on a connection that sees both files. A push
holds the right to write Feast's file from before it reads until it has written: of several replicas one pushes, a
killed one's right is free at once, and no older state can come after a newer one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from millrace.appended.records import Entry, Records
from millrace.appended.sqlite import FILE, SQLiteEvents, Unpushed
from millrace.errors import Unavailable
from millrace.fields import View
from millrace.inputs import RecentEvents, States
from millrace.instants import microseconds
from millrace.lake.feast_home import DATABASE
from millrace.lake.manifest import Manifest
from serving.transformer.fill import NEVER_FILLED, Fill
from serving.transformer.refreshed import Keys, Row, states_from
from serving.transformer.rows import Rows

BATCH_KEYS: Final = 32
"""Entities of a push: about 5 ms of work, and one wait for the disk."""
EARLIEST_US: Final = -(1 << 63)


class EmbeddedStore:
    """The views of one workload; lookups, appends and pushes may each have a thread of their own."""

    embedded = True

    def __init__(
        self, repo: Path, lookups: Any, pushes: Any, views: Sequence[View], records: Records | None, lake: Path
    ) -> None:
        """`lookups` and `pushes` are `feast.FeatureStore`s: Feast writes a row field by field on its connection, and a
        read on the same one would see a part of it."""
        self._fill, self._views, self._lake = Fill(repo), views, lake
        self._rows = {view.name: Rows(lookups, view) for view in views}
        self._recent: _Recent | None = None
        if records is not None:
            self._recent = _Recent(repo, self._rows[records.view.name], Rows(pushes, records.view), records, pushes)
        for view in views:  # the first read opens files and loads code: before readiness, not in a request
            if self._fill.current() != NEVER_FILLED:
                self._rows[view.name].read([""])

    def read(self, keys: Keys) -> States:
        """One row per event; unknown entities have states of nothing. Raises Unavailable for a store never filled."""
        if self._fill.current() == NEVER_FILLED:
            raise Unavailable("the online store was never filled. Run materialize (make run).")
        recent = {view.name: self.read_recent(keys[view.entity]) for view in self._views if view.recent}
        refreshed = {view: self.read_refreshed(view, keys[view.entity]) for view in self._views if not view.recent}
        return states_from(recent, refreshed)

    def read_recent(self, keys: Sequence[str]) -> list[RecentEvents]:
        return self._of_recent().read(keys)

    def read_refreshed(self, view: View, keys: Sequence[str]) -> list[Row]:
        return self._rows[view.name].read_refreshed(keys)

    def contents(self) -> str:
        """What the store was filled from, and to which refresh the refreshed views were renewed since."""
        return self._fill.contents()

    def append(self, entries: Sequence[Entry]) -> None:
        """Raises Unavailable when the disk refuses, and then the answer must not go out."""
        events = self._of_recent().events
        try:
            events.append(entries)
        except sqlite3.Error as error:
            raise Unavailable(f"events cannot be appended to {events.path}: {error}") from error

    def push(self) -> int:
        """Give Feast's rows some of the events that they lack; how many entities got any."""
        recent, fill = self._of_recent(), self._fill.current()
        if not fill:
            return 0
        recent.events.refilled(fill, self._as_of_us(fill))
        return recent.push()

    def unpushed(self) -> int:
        """Entities whose row in Feast lacks events."""
        return self._of_recent().events.unpushed_count()

    def sync(self) -> None:
        self._of_recent().events.sync()

    def _of_recent(self) -> _Recent:
        if self._recent is None:
            raise LookupError("this workload has no recent view: nothing is appended")
        return self._recent

    def _as_of_us(self, fill: str) -> int:
        """The instant that the fill speaks from; without the lake that says so the earliest, which keeps everything."""
        folder = self._lake / "online" / fill
        if not (folder / "manifest.json").is_file():
            return EARLIEST_US
        return microseconds(datetime.fromisoformat(Manifest.read(folder, "online_store").facts["as_of"]))


class _Recent:
    """The recent view: rows in Feast's file, events beside it."""

    def __init__(self, repo: Path, rows: Rows, pushed: Rows, records: Records, pushes: Any) -> None:
        from feast.infra.online_stores.helpers import compute_table_id

        self.events = SQLiteEvents(repo / FILE, records)
        self._rows, self._pushed, self._records = rows, pushed, records
        self._places = {name: place for place, name in enumerate(rows.names)}
        versioned = rows.config.registry.enable_online_feature_view_versioning
        self._table = compute_table_id(rows.config.project, rows.feast_view, versioned)
        self._connection = sqlite3.connect(repo / FILE, isolation_level=None, check_same_thread=False)
        self._connection.execute("ATTACH ? AS feast", [str(repo / DATABASE)])
        self._feast = pushes.provider.online_store._get_conn(pushes.config)
        self._feast.execute("PRAGMA journal_mode = WAL")

    def read(self, keys: Sequence[str]) -> list[RecentEvents]:
        unique = list(dict.fromkeys(keys))
        key_of = {self._rows.key_bytes(key): key for key in unique}
        rows: dict[str, list[bytes | None]] = {key: [None] * len(self._places) for key in unique}
        appended: dict[str, bytes] = {}
        for name, key, data in self._connection.execute(self._query(len(unique)), [*unique, *key_of]):
            if name is None:
                appended[key] = data
            else:
                rows[key_of[key]][self._places[name]] = data
        states = {
            key: self._records.served(self._rows.state(key, tuple(values)), appended.get(key, b""))
            for key, values in rows.items()
        }
        return [states[key] for key in keys]

    def push(self) -> int:
        if not self.events.unpushed(1):
            return 0
        self._feast.execute("BEGIN IMMEDIATE")
        try:
            unpushed = self.events.unpushed(BATCH_KEYS)
            if unpushed:
                self._write(unpushed)  # which commits
        finally:
            if self._feast.in_transaction:
                self._feast.rollback()
        self.events.pushed(unpushed)
        return len(unpushed)

    def _write(self, unpushed: Sequence[Unpushed]) -> None:
        rows = self._pushed.read_recent([one.key for one in unpushed])
        pairs = zip(unpushed, rows, strict=True)
        states = {one.key: self._records.served(row, one.records) for one, row in pairs}
        for key, values in self._pushed.write_recent(states).items():
            self._rows.remember(key, values, states[key])

    def _query(self, count: int) -> str:
        marks = ", ".join("?" * count)
        return (
            f'SELECT NULL, key, records FROM main."{self._records.name}" WHERE key IN ({marks}) UNION ALL '
            f'SELECT feature_name, entity_key, value FROM feast."{self._table}" WHERE entity_key IN ({marks})'
        )
