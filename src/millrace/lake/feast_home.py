"""Where a home keeps its Feast repository, and what its online store was filled from. Imports no feast.

`<home>/feast` is made by `components/materialize`; readers open it with `FeatureStore(repository(home))`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def repository(home: Path) -> Path:
    """The folder that holds `feature_store.yaml` and the databases."""
    return home / "feast"


def online_database(home: Path) -> Path:
    return repository(home) / "online_store.db"


def filled_with(home: Path) -> str | None:
    """Id of the `online_store` artifact whose content the store got last; None when it was never filled."""
    if not online_database(home).is_file():
        return None
    with closing(sqlite3.connect(online_database(home))) as connection:
        known = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'filled_with'").fetchone()[0]
        row = connection.execute("SELECT id FROM filled_with").fetchone() if known else None
    return str(row[0]) if row else None


def record_fill(connection: sqlite3.Connection, identity: str, terminals_as_of: str | None = None) -> None:
    """Note, within the caller's transaction, what the store is filled from, and which refresh its terminals are of.

    None: the refresh that the artifact was made for.
    """
    connection.execute("DROP TABLE IF EXISTS filled_with")
    connection.execute("CREATE TABLE filled_with (id TEXT, terminals_as_of TEXT)")
    connection.execute("INSERT INTO filled_with VALUES (?, ?)", [identity, terminals_as_of])


def terminals_as_of(home: Path) -> str | None:
    """The refresh, ISO 8601, that terminals were renewed to since the store was filled; None when they were not."""
    if filled_with(home) is None:
        return None
    with closing(sqlite3.connect(online_database(home))) as connection:
        row = connection.execute("SELECT * FROM filled_with").fetchone()
    return row[1] if len(row) > 1 else None  # a store of before has no such column
