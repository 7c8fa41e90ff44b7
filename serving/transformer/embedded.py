"""The laptop's online store: a generation's SQLite file, and what was appended in a file beside the generations.

A lookup reads an entity's row and its appended events in one statement, on a connection that sees both files. A push
holds the right to write Feast's file from before it reads until it has written: of several replicas one pushes, a
killed one's right is free at once, and no older state can come after a newer one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from millrace.appended.records import Entry, Records
from millrace.appended.sqlite import FILE, Lane, SQLiteEvents, Unpushed
from millrace.errors import Unavailable
from millrace.fields import View
from millrace.inputs import RecentEvents, States
from millrace.lake.feast_home import DATABASE, Fill, read_fill, record_served
from serving.transformer.fill import NEVER_FILLED, Contents
from serving.transformer.refreshed import Keys, Row, states_from
from serving.transformer.rows import Rows

BATCH_KEYS: Final = 32
"""Entities of a push: about 5 ms of work, and one wait for the disk."""
_FILL: Final = "/fill"
"""In the place of a feature's name: what the rows were filled with."""


class EmbeddedStore:
    """The views of a generation, in the folder `repo`; lookups, appends and pushes may each have their own thread."""

    embedded = True

    def __init__(self, repo: Path, lookups: Any, pushes: Any, views: Sequence[View], records: Records | None) -> None:
        """`lookups` and `pushes` are `feast.FeatureStore`s: Feast writes a row field by field on its connection, and a
        read on the same one would see a part of it."""
        record_served(repo)
        self._fill, self._views = Contents(repo), views
        self._rows = {view.name: Rows(lookups, view) for view in views}
        self.place = "" if records is None else records.name
        self._recent: _Recent | None = None
        if records is not None:
            self._recent = _Recent(repo, self._rows[records.view.name], Rows(pushes, records.view), records, pushes)
        for view in views:  # the first read opens files and loads code: before readiness, not in a request
            if self._fill.current() != NEVER_FILLED:
                self._rows[view.name].read([""])

    def read(self, keys: Keys) -> States:
        """One row per event; unknown entities have states of nothing. Raises Unavailable for a store never filled."""
        if self._fill.current() == NEVER_FILLED:
            raise Unavailable("this generation of state was never filled. Run a pipeline (make run).")
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
        return self._of_recent().push() if self._fill.current() else 0

    def unpushed(self) -> int:
        """Entities whose row in Feast lacks events."""
        return self._of_recent().unpushed()

    def sync(self) -> None:
        self._of_recent().events.sync()

    def _of_recent(self) -> _Recent:
        if self._recent is None:
            raise LookupError("this workload has no recent view: nothing is appended")
        return self._recent


class _Recent:
    """The recent view: rows in Feast's file, events beside it."""

    def __init__(self, repo: Path, rows: Rows, pushed: Rows, records: Records, pushes: Any) -> None:
        from feast.infra.online_stores.helpers import compute_table_id

        self.events = SQLiteEvents(repo.parent / FILE, records)
        self._generation = repo.name
        self._rows, self._pushed, self._records = rows, pushed, records
        self._places = {name: place for place, name in enumerate(rows.names)}
        versioned = rows.config.registry.enable_online_feature_view_versioning
        self._table = compute_table_id(rows.config.project, rows.feast_view, versioned)
        self._connection = sqlite3.connect(repo.parent / FILE, isolation_level=None, check_same_thread=False)
        self._connection.execute("ATTACH ? AS feast", [str(repo / DATABASE)])
        self._feast = pushes.provider.online_store._get_conn(pushes.config)
        self._feast.execute("PRAGMA journal_mode = WAL")

    def read(self, keys: Sequence[str]) -> list[RecentEvents]:
        unique = list(dict.fromkeys(keys))
        key_of = {self._rows.key_bytes(key): key for key in unique}
        rows: dict[str, list[bytes | None]] = {key: [None] * len(self._places) for key in unique}
        appended: dict[str, bytes] = {}
        fill = Fill(NEVER_FILLED)
        for name, key, data in self._connection.execute(self._query(len(unique)), [*unique, *key_of]):
            if name == _FILL:
                fill = Fill(NEVER_FILLED, as_of_us=key, filled_us=data)
            elif name is None:
                appended[key] = data
            else:
                rows[key_of[key]][self._places[name]] = data
        states = {
            key: self._records.served(self._rows.state(key, tuple(values)), appended.get(key, b""), fill)
            for key, values in rows.items()
        }
        return [states[key] for key in keys]

    def unpushed(self) -> int:
        fill = read_fill(self._feast)
        return self.events.unpushed_count(self._lane(fill)) if fill is not None else 0

    def push(self) -> int:
        fill = read_fill(self._feast)
        if fill is None or not self.events.unpushed(self._lane(fill), 1):
            return 0
        self._feast.execute("BEGIN IMMEDIATE")
        try:
            fill = read_fill(self._feast) or fill  # that of the rows which are written now
            lane = self._lane(fill)
            unpushed = self.events.unpushed(lane, BATCH_KEYS)
            self._write(unpushed, fill)  # which commits
        finally:
            if self._feast.in_transaction:
                self._feast.rollback()
        self.events.pushed(lane, unpushed)
        return len(unpushed)

    def _lane(self, fill: Fill) -> Lane:
        return Lane(self._generation, f"{fill.id}@{fill.filled_us}")

    def _write(self, unpushed: Sequence[Unpushed], fill: Fill) -> None:
        lacking = [one for one in unpushed if self._records.since(one.records, fill)]
        if not lacking:
            return
        rows = self._pushed.read_recent([one.key for one in lacking])
        pairs = zip(lacking, rows, strict=True)
        states = {one.key: self._records.served(row, one.records, fill) for one, row in pairs}
        for key, values in self._pushed.write_recent(states).items():
            self._rows.remember(key, values, states[key])

    def _query(self, count: int) -> str:
        marks = ", ".join("?" * count)
        return (
            f"SELECT '{_FILL}', as_of_us, filled_us FROM feast.filled_with UNION ALL "
            f'SELECT NULL, key, records FROM main."{self._records.name}" WHERE key IN ({marks}) UNION ALL '
            f'SELECT feature_name, entity_key, value FROM feast."{self._table}" WHERE entity_key IN ({marks})'
        )
