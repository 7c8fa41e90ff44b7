"""What the online store was filled from: the id that `materialize` leaves in it, read in microseconds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from millrace.feast_home import online_database

NEVER_FILLED: Final = ""


class Fill:
    """Of a home's store; threads may share it."""

    def __init__(self, home: Path) -> None:
        path = online_database(home)
        self._connection = sqlite3.connect(path, check_same_thread=False) if path.is_file() else None

    def current(self) -> str | None:
        """The id of the `online_store` artifact, NEVER_FILLED, or None for a store that cannot tell (not SQLite)."""
        if self._connection is None:
            return None
        try:
            row = self._connection.execute("SELECT id FROM filled_with").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return NEVER_FILLED
            raise
        return str(row[0]) if row else NEVER_FILLED
