"""What was rejected, by example: of each reason one row, its place, its value, and what would take it.

In: the Parquet of a quarantine and the document that the source was read with. Out: an `Example` a reason. Values of
pseudonymised entities are not shown: examples go to logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from components.ingest.quarantine import OURS, RAW_LINE
from millrace.fields import Field, Kind
from millrace.reading.document import ColumnsDocument
from millrace.workload import Schema

MOST_SHOWN: Final = 60
"""Characters of a value."""
_TIME_FORMS: Final = "format: '%d.%m.%Y %H:%M', or epoch: ms, or unit: hour with start: 2024-01-01"
_TAKEN_BY: Final[Mapping[str, str]] = {
    "too_precise": "round: true",
    "negative": "negative: turn",
    "not_0_or_1": "positive: [Y] and negative: [N]",
    "nonexistent_local_time": "another read: {timezone: …}",
    "ambiguous_local_time": "another read: {timezone: …}",
}
"""End of a reason → what the field's entry in a columns document would have to say."""


@dataclass(frozen=True, slots=True)
class Example:
    """One rejected row."""

    reason: str
    file: str
    row: int
    """Counted from 1 below the header."""
    column: str
    """Raw name; empty where no single column is at fault."""
    value: str
    """As it came; empty where it is not shown."""
    taken_by: str
    """What a columns document would have to say; empty where nothing would help."""

    def __str__(self) -> str:
        what = f", {self.column} is {self.value!r}" if self.column and self.value else ""
        then = f". Would be taken with {self.taken_by}" if self.taken_by else ""
        return f"row {self.row} of {Path(self.file).name}{what}{then}"


def examples(quarantine: Path, schema: Schema, document: ColumnsDocument) -> list[Example]:
    """The first row of each reason, in the order of reasons; empty where nothing was rejected."""
    if next(quarantine.glob("*.parquet"), None) is None:
        return []
    with duckdb.connect() as engine:
        rows = engine.execute(
            "SELECT DISTINCT ON (reason) * FROM read_parquet(?, union_by_name = true) "
            "ORDER BY reason, source_file, source_row",
            [[str(path) for path in sorted(quarantine.glob("*.parquet"))]],
        )
        names = [column[0] for column in rows.description or ()]
        found = [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
    return [_example(row, schema, document) for row in found]


def _example(row: Mapping[str, Any], schema: Schema, document: ColumnsDocument) -> Example:
    reason, place = str(row["reason"]), (str(row["source_file"]), int(row["source_row"]))
    hidden = {entity.key for entity in schema.ENTITIES if entity.pseudonymised}
    if reason == "malformed_row":
        line = "" if hidden else _shown(row.get(RAW_LINE))
        return Example(reason, *place, "the line", line, "read: {delimiter: …, quote: …}")

    at_fault = next((one for one in schema.FIELDS if reason.startswith(f"{one.name}_")), None)
    if at_fault is None:
        return Example(reason, *place, "", "", "")
    columns = _columns_of(at_fault, row, schema, document)
    value = "" if at_fault.name in hidden else " ".join(_shown(row[name]) for name in columns)
    taken_by = _taken_by(at_fault, reason.removeprefix(f"{at_fault.name}_"))
    told = f"columns: {{{at_fault.name}: {{…, {taken_by}}}}}" if taken_by else ""
    return Example(reason, *place, " and ".join(columns) or at_fault.name, value, told)


def _columns_of(field: Field, row: Mapping[str, Any], schema: Schema, document: ColumnsDocument) -> list[str]:
    """Raw names that the field was read from, of those that have a value."""
    source = document.columns.get(field.name)
    told = source.names if source is not None else ()
    known = {field.name.upper(), *(alias.upper() for alias, ours in schema.ALIASES.items() if ours == field.name)}
    filled = [name for name, value in row.items() if value is not None and name not in OURS]
    return [name for name in filled if name in told or (not told and name.upper() in known)]


def _taken_by(field: Field, fault: str) -> str:
    if fault == "unreadable":
        return _TIME_FORMS if field.kind is Kind.INSTANT else "decimal: ',', thousands: '.'"
    return _TAKEN_BY.get(fault, "")


def _shown(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"
