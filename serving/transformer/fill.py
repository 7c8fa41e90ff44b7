"""What the online store was filled from: what `materialize` leaves in it, read in microseconds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from millrace.lake.feast_home import online_database

NEVER_FILLED: Final = ""
_RENEWED: Final = "@"


def fill_of(contents: str | None) -> str | None:
    """What `Fill.contents` says that `Fill.current` says too."""
    return contents and contents.partition(_RENEWED)[0]


class Fill:
    """Of a home's store; threads may share it."""

    def __init__(self, home: Path) -> None:
        path = online_database(home)
        self._connection = sqlite3.connect(path, check_same_thread=False) if path.is_file() else None

    def current(self) -> str | None:
        """The id of the `online_store` artifact, NEVER_FILLED, or None for a store that cannot tell (not SQLite)."""
        row = self._row()
        return None if row is None else row[0]

    def contents(self) -> str | None:
        """As `current`, and which refresh terminals were renewed to since: another word after each of both."""
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
