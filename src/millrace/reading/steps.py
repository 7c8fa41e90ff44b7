"""What reads one raw column: SQL steps, the ways in which they fail, and what the columns document says of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from millrace.reading.document import FieldSource, ReadOptions
from millrace.sql import literal


@dataclass(frozen=True, slots=True)
class How:
    """What the columns document says of a field's values."""

    source: FieldSource
    timezone: str
    decimal: str
    thousands: str

    @classmethod
    def of(cls, source: FieldSource, read: ReadOptions) -> How:
        """A field's own marks win over those of the whole source."""
        decimal = read.decimal if source.decimal is None else source.decimal
        thousands = read.thousands if source.thousands is None else source.thousands
        return cls(source, read.timezone, decimal, thousands)


@dataclass(frozen=True, slots=True)
class Cast:
    """SQL that reads one column, and the ways it can fail, first match first."""

    steps: tuple[tuple[str, str], ...]
    """(alias, expression) in order; a later one may use the aliases before it. The last is the value."""
    problems: tuple[tuple[str, str], ...] = ()
    """(condition, reason)."""


def alias(name: str) -> str:
    """What a field's value is called among the steps that read it."""
    return f"__{name}"


def unreadable(name: str, read: str = "") -> tuple[str, str]:
    """The problem of a value that is there and was not read; `read` is the step that reads it, else the last."""
    return f"__{name}_source IS NOT NULL AND {read or alias(name)} IS NULL", f"{name}_unreadable"


def listed(words: Iterable[str]) -> str:
    """Words as literals, with commas between."""
    return ", ".join(literal(word) for word in words)
