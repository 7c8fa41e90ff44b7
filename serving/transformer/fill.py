"""What a generation was filled from: what `materialize` leaves in it, read in microseconds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from millrace.lake.feast_home import DATABASE

NEVER_FILLED: Final = ""
_RENEWED: Final = "@"


class Contents:
    """Of the generation in a folder (`millrace.lake.feast_home.repository`); threads may share it."""

    def __init__(self, repository: Path) -> None:
        self._connection = sqlite3.connect(repository / DATABASE, check_same_thread=False)

    def current(self) -> str:
        """The id of the `online_store` artifact, or NEVER_FILLED."""
        return self._row()[0]

    def contents(self) -> str:
        """Like `current`, plus the refresh that views were renewed to since. Changes after either."""
        return _RENEWED.join(filter(None, self._row()))

    def _row(self) -> tuple[str, ...]:
        try:
            row = self._connection.execute("SELECT id, renewed_to FROM filled_with").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            row = None
        return row or (NEVER_FILLED,)
