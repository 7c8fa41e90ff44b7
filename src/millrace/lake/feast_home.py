"""Where a home keeps the Feast repository of a workload, and what its online store was filled from. Imports no feast.

`<home>/feast/<workload>` is made by `components/materialize`; readers open it with
`FeatureStore(repository(home, workload))`. Each workload has its own, so that filling one leaves the others alone.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

DATABASE: Final = "online_store.db"
"""File of the online store in a repository."""


def repository(home: Path, workload: str) -> Path:
    """The folder that holds `feature_store.yaml` and the databases of the workload called so."""
    return home / "feast" / workload


def online_database(home: Path, workload: str) -> Path:
    return repository(home, workload) / DATABASE


def filled_with(home: Path, workload: str) -> str | None:
    """Id of the `online_store` artifact whose content the store got last; None when it was never filled."""
    row = _row(online_database(home, workload))
    return str(row[0]) if row else None


def renewed_to(home: Path, workload: str) -> str | None:
    """The refresh, ISO 8601, that views were renewed to since the store was filled; None when they were not."""
    row = _row(online_database(home, workload))
    return row[1] if row else None


def record_fill(connection: sqlite3.Connection, identity: str, renewed_to: str | None = None) -> None:
    """Note, within the caller's transaction, what the store is filled from, and the refresh of its refreshed views.

    None: the refresh that the artifact was made for.
    """
    connection.execute("DROP TABLE IF EXISTS filled_with")
    connection.execute("CREATE TABLE filled_with (id TEXT, renewed_to TEXT)")
    connection.execute("INSERT INTO filled_with VALUES (?, ?)", [identity, renewed_to])


def _row(database: Path) -> tuple[str, str | None] | None:
    if not database.is_file():
        return None
    with closing(sqlite3.connect(database)) as connection:
        known = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'filled_with'").fetchone()[0]
        row: tuple[str, str | None] | None = (
            connection.execute("SELECT id, renewed_to FROM filled_with").fetchone() if known else None
        )
    return row
