"""What the readers of all formats have in common: a file's segments, and their rows as they come out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from millrace.reading.columns import Shape


@dataclass(kw_only=True, slots=True)
class Segment:
    """A stretch of one file that is parsed as one and known by the hash of its bytes."""

    start: int
    end: int
    """Positions in the decoded bytes, or the number of the row group and the next."""
    hash: str
    rows: int = 0
    days: list[int] = field(default_factory=list)
    """Days since 1970 that its readable rows fall on."""
    invalid: dict[str, int] = field(default_factory=dict)
    """Reason → rows that broke a rule by themselves."""


@dataclass(frozen=True, slots=True)
class RawRows:
    """Some rows of one segment."""

    table: pa.Table
    """All raw columns."""
    rows: Sequence[int] | range
    """Place of each row in its segment."""
    malformed: Sequence[tuple[int, str]] = ()
    """(place, text) of rows that have more or fewer fields than the header."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One segment met while scanning a file."""

    segment: Segment
    known: bool
    """True when its bytes are those of a segment the index has; it need not be parsed."""
    read: Callable[[], Iterator[RawRows]]
    """Parse it; to be called, if at all, before the next stretch is asked for."""


class Reader(Protocol):
    """A file, opened anew by each call."""

    shape: Shape

    def scan(self, known: Sequence[Segment]) -> Iterator[Stretch]:
        """Cut the file into segments, along those of `known` as far as their bytes are still the same."""
        ...

    def beginning(self) -> RawRows:
        """The first rows, for those who look."""
        ...

    def reread(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, RawRows]]:
        """Parse some segments of an earlier scan again, in the order of the file."""
        ...
