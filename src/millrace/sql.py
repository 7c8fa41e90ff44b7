"""Names and texts of SQL: what DuckDB reads as one identifier or one literal, whatever is in it."""

from __future__ import annotations


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: object) -> str:
    """A text, such as a value or a file's path."""
    return "'" + str(text).replace("'", "''") + "'"
