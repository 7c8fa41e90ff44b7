"""What the readers of both formats have in common: a segment's rows as they come out of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from components.ingest.columns import Shape
from components.ingest.index import Segment


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

    def reread(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, RawRows]]:
        """Parse some segments of an earlier scan again, in the order of the file."""
        ...
