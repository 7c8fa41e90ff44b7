"""Raw rows in, staged rows and quarantine out: a quarter of a million rows at a time, from however many files.

Small files are joined before they are cast and checked, because both cost a few milliseconds per call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.ingest.checks import reasons
from components.ingest.quarantine import Quarantine, invalid_prefix, segment_key
from components.ingest.staging import Staging
from millrace.instants import DAY_US
from millrace.pseudonyms import pseudonymise
from millrace.reading.casts import cast_sql, numbered
from millrace.reading.columns import Shape
from millrace.reading.raw import RawRows, Segment
from millrace.workload import Schema

_ROWS_AT_ONCE: Final = 262_144


@dataclass(frozen=True, slots=True)
class Origin:
    """Where rows come from: a segment, its file, and how it is counted."""

    number: int
    """Stands for the segment in the stage."""
    path: str
    segment: Segment
    first_row: int
    """Rows of the file before this segment."""
    shape: Shape

    @property
    def key(self) -> str:
        return segment_key(self.path, self.segment.start, self.segment.hash)


class Intake:
    """Casts, checks, pseudonymises and stages."""

    def __init__(self, staging: Staging, quarantine: Quarantine, schema: Schema, carried: pa.Schema, key: bytes):
        self._staging = staging
        self._schema = schema
        self._quarantine = quarantine
        self._carried = carried
        self._key = key
        self._hidden = [entity.key for entity in schema.ENTITIES if entity.pseudonymised]
        self._pseudonyms: dict[str, dict[str, str]] = {key: {} for key in self._hidden}  # of earlier batches
        self._waiting: list[tuple[Origin, RawRows]] = []
        self._days: Collection[int] | None = None

    def take(self, origin: Origin, raw: RawRows, days: Collection[int] | None) -> None:
        """Accept rows of a segment: all of them and their faults (`days` None), or of a segment that was counted
        before, only the good rows of `days`.
        """
        first = self._waiting[0][0].shape if self._waiting else origin.shape
        if self._days is not days or not first.raw.equals(origin.shape.raw) or first.name_of != origin.shape.name_of:
            self.flush()

        self._days = days
        self._waiting.append((origin, raw))
        if days is None:
            self._count_malformed(origin, raw)
        if sum(len(rows.table) for _, rows in self._waiting) >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Work off what is waiting."""
        waiting = self._waiting
        self._waiting = []
        if not waiting:
            return

        raw = pa.concat_tables([rows.table for _, rows in waiting])
        origins = np.repeat([origin.number for origin, _ in waiting], [len(rows.table) for _, rows in waiting])
        places = np.concatenate([origin.first_row + np.asarray(rows.rows, np.int64) for origin, rows in waiting])
        first = waiting[0][0]
        sql = cast_sql(first.shape, self._schema, self._carried, first.path)
        typed = self._staging.query(sql, raw=numbered(raw))

        reason = reasons(typed, self._schema.FIELDS)
        if self._days is None:
            self._set_aside(waiting, raw, reason, origins, places)
        good = pa.array(reason == np.array(None))
        self._stage(waiting, typed.filter(good), origins[good], places[good])

    def _stage(
        self, waiting: list[tuple[Origin, RawRows]], typed: pa.Table, origins: NDArray[Any], places: NDArray[Any]
    ) -> None:
        days = pc.cast(typed["event_timestamp"], pa.int64()).to_numpy() // DAY_US
        batch = typed

        for name in self._hidden:
            hidden = pseudonymise(batch[name], self._key, self._pseudonyms[name])
            batch = batch.set_column(batch.schema.get_field_index(name), name, hidden)
        batch = batch.append_column("__segment", pa.array(origins, pa.int32()))
        batch = batch.append_column("__row", pa.array(places, pa.int64()))
        self._staging.add(batch.append_column("__day", pa.array(days, pa.int32())), self._days)

        if self._days is None:
            for origin, _ in waiting:
                seen = set(origin.segment.days) | set(np.unique(days[origins == origin.number]).tolist())
                origin.segment.days = sorted(seen)

    def _set_aside(
        self, waiting: list[tuple[Origin, RawRows]], raw: pa.Table, reason: NDArray[Any], origins: Any, places: Any
    ) -> None:
        bad = np.flatnonzero(reason != np.array(None))
        by_number = {origin.number: origin for origin, _ in waiting}
        for number in np.unique(origins[bad]).tolist():
            origin = by_number[number]
            mine = bad[origins[bad] == number]
            name = f"{invalid_prefix(origin.key)}{places[mine[0]]}"
            self._quarantine.add(name, raw.take(pa.array(mine)), reason[mine], origin.path, places[mine])
            origin.segment.invalid = dict(Counter(origin.segment.invalid) + Counter(reason[mine].tolist()))

    def _count_malformed(self, origin: Origin, raw: RawRows) -> None:
        if origin.segment.rows == 0:  # of a delimited file; a row group knows its rows beforehand
            origin.segment.rows = len(raw.table) + len(raw.malformed)
        if raw.malformed:
            lines = [(origin.first_row + place, text) for place, text in raw.malformed]
            self._quarantine.add_malformed(f"{invalid_prefix(origin.key)}lines", lines, origin.path)
            origin.segment.invalid["malformed_row"] = len(lines)
