"""Text that was made of something else, kept in a temporary file while it is read."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, TypeAlias

Spool: TypeAlias = "tempfile._TemporaryFileWrapper[str]"
"""A named temporary file that goes when nobody holds it."""


def spooled_once(known: dict[str, Any], make: Callable[[], Spool]) -> IO[bytes]:
    """The same text from its start, made at the first call; `known` keeps it."""
    if "text" not in known:
        known["text"] = make()
    return Path(known["text"].name).open("rb")


def delimited(rows: Iterable[Sequence[Any]], decimal: str) -> Spool:
    """Rows as UTF-8 text with commas, the header first; numbers are written with the decimal mark that is read."""
    spool = tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".csv")  # noqa: SIM115 - handed on
    writer = csv.writer(spool, lineterminator="\n")
    for row in rows:
        writer.writerow([_cell(value, decimal) for value in row])
    spool.flush()
    return spool


def _cell(value: Any, decimal: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        value = int(value) if value.is_integer() and abs(value) < 2**53 else value
        return str(value).replace(".", decimal)
    if isinstance(value, Decimal):
        return format(value, "f").replace(".", decimal)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, time | timedelta):
        return str(value)
    return str(value)
