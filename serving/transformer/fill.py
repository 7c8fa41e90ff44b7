"""What the online store was filled from: what `materialize` leaves in it, read in microseconds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from millrace.lake.feast_home import DATABASE

NEVER_FILLED: Final = ""
_RENEWED: Final = "@"


class Fill:
    """Of the store in a repository (`millrace.lake.feast_home.repository`); threads may share it."""

    def __init__(self, repository: Path) -> None:
        path = repository / DATABASE
        self._connection = sqlite3.connect(path, check_same_thread=False) if path.is_file() else None

    def current(self) -> str | None:
        """The id of the `online_store` artifact, NEVER_FILLED, or None for a store that cannot tell (not SQLite)."""
        row = self._row()
        return None if row is None else row[0]

    def contents(self) -> str | None:
        """Like `current`, plus the refresh that views were renewed to since. Changes after either."""
        row = self._row()
        return None if row is None else _RENEWED.join(filter(None, row))

    def _row(self) -> tuple[str, ...] | None:
        if self._connection is None:
            return None
        try:
            row = self._connection.execute("SELECT * FROM filled_with").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            row = None
        return row or (NEVER_FILLED,)
