"""The rows of a file, read as ingest reads them, but for a label: what a person wants scored has none.

In: a source and ingest's options. Out: good rows in the columns of the workload's schema, ordered by time and id, ids
replaced by pseudonyms where the workload says so; and the rows that cannot be read, each with its reason. Nothing is
written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.ingest.checks import reasons
from components.ingest.config import IngestConfig
from millrace.errors import InvalidInput
from millrace.features.events import as_utc
from millrace.installed import load
from millrace.observe.progress import track
from millrace.pseudonyms import pseudonymise
from millrace.reading.casts import PLACE, cast_sql, numbered
from millrace.reading.columns import Shape, lacking
from millrace.reading.raw import RawRows
from millrace.reading.readers import open_reader
from millrace.reading.redaction import redacting
from millrace.reading.sources import SourceFile, TableFile, list_files

REASON: Final = "reason"
SOURCE_FILE: Final = "source_file"
SOURCE_ROW: Final = "source_row"
"""Counted from 1 below the header."""
_NOTHING: Final = "__nothing"


@dataclass(frozen=True, slots=True)
class FileRows:
    """What a source holds."""

    good: pa.Table
    """Columns of the schema, in the order of time and id; no id twice, unless ids are made of the rows."""
    places: pa.Table
    """Of the good rows: `source_file` and `source_row`, as of the rejected ones."""
    rejected: list[pa.Table]
    """Reason, source file and row, then the raw columns as text; files may have other columns than one another."""
    counts: Counter[str] = field(default_factory=Counter)
    """Reason → rejected rows."""


def read_rows(source: str, config: IngestConfig) -> FileRows:
    """Raises NotFound, InvalidInput and SchemaMismatch as ingest does."""
    with redacting(), closing(duckdb.connect()) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        engine.execute(f"SET threads = {int(config.threads)}")
        reading = _Reading(engine, config)
        files = list_files(source)
        for number, file in enumerate(track(files, "reading", total=len(files))):
            reading.take(number, file)
        return reading.finished(files)


class _Reading:
    """One pass over a source."""

    def __init__(self, engine: duckdb.DuckDBPyConnection, config: IngestConfig) -> None:
        self._engine, self._config = engine, config
        schema = load(config.workload).schema
        self._schema = lacking(schema, {schema.LABEL.column, "label_timestamp"})
        self._hidden: dict[str, dict[Any, str]] = {
            entity.key: {} for entity in self._schema.ENTITIES if entity.pseudonymised
        }
        self._made_ids = False
        self._good: list[pa.Table] = []
        self._places: list[pa.Table] = []
        self._rejected: list[pa.Table] = []
        self._counts: Counter[str] = Counter()

    def take(self, number: int, file: SourceFile | TableFile) -> None:
        """Cast and check the rows of a file."""
        reader = open_reader(file, self._schema, self._config.columns)
        shape = self._whole(reader.shape)
        self._made_ids |= self._schema.EVENT_ID not in shape.name_of
        first = 0
        for stretch in reader.scan([]):
            for raw in stretch.read():
                self._take(number, file, shape, raw, first)
                first += len(raw.table) + len(raw.malformed)

    def _whole(self, shape: Shape) -> Shape:
        """The shape with an empty column for the label's time where there is none: other fields may be made of it."""
        if "label_timestamp" in shape.name_of:
            return shape
        raw = shape.raw.append(pa.field(_NOTHING, pa.string()))
        return replace(shape, raw=raw, name_of={**shape.name_of, "label_timestamp": _NOTHING})

    def _take(self, number: int, file: SourceFile | TableFile, shape: Shape, raw: RawRows, first: int) -> None:
        sql = cast_sql(shape, self._schema, pa.schema([]), file.name)
        given = raw.table
        for name in shape.raw.names[given.num_columns :]:
            given = given.append_column(name, pa.nulls(len(given), pa.string()))
        self._engine.register("raw", numbered(given))
        typed = self._engine.sql(sql).to_arrow_table()
        self._engine.unregister("raw")

        why = reasons(typed, self._schema.FIELDS)
        start = raw.rows[0] if len(raw.rows) else 0
        places = first + np.asarray(raw.rows, np.int64) - (start if isinstance(raw.rows, range) else 0)
        bad = np.flatnonzero(why != np.array(None))
        if len(bad):
            self._reject(file, raw.table.take(pa.array(bad)), why[bad].tolist(), places[bad])
        if raw.malformed:
            lines = pa.table({"raw_line": [text for _, text in raw.malformed]})
            at = first + np.array([place for place, _ in raw.malformed])
            self._reject(file, lines, ["malformed_row"] * len(lines), at)

        good = pa.array(why == np.array(None))
        table = as_utc(typed.filter(good).select(self._schema.EVENTS.names))
        for name, known in self._hidden.items():
            hidden = pseudonymise(table[name], self._config.pseudonym_key, known)
            table = table.set_column(table.schema.get_field_index(name), name, hidden)
        self._good.append(table.cast(self._schema.EVENTS))
        kept = places[good.to_numpy(zero_copy_only=False)]
        self._places.append(pa.table({"file": np.full(len(kept), number), "row": kept}))

    def _reject(self, file: SourceFile | TableFile, raw: pa.Table, why: list[str], places: Any) -> None:
        self._counts.update(why)
        self._rejected.append(_with_places(_as_text(self._engine, raw), why, [file.name] * len(raw), places))

    def finished(self, files: list[SourceFile | TableFile]) -> FileRows:
        """All rows of all files; raises InvalidInput where there is none."""
        rows = pa.concat_tables(self._good) if self._good else self._schema.EVENTS.empty_table()
        if not len(rows) and not self._counts:
            raise InvalidInput(f"{files[0].name} holds no rows; wanted at least one")
        places = pa.concat_tables(self._places)
        if not self._made_ids:
            unique = pa.array(self._unrepeated(rows, places, files))
            rows, places = rows.filter(unique), places.filter(unique)

        names = pa.array([file.name for file in files], pa.string()).take(places["file"])
        told = pa.table({SOURCE_FILE: names, SOURCE_ROW: pc.add(places["row"], 1)})
        order = pc.sort_indices(
            rows, sort_keys=[("event_timestamp", "ascending"), (self._schema.EVENT_ID, "ascending")]
        )
        return FileRows(rows.take(order), told.take(order), self._rejected, self._counts)

    def _unrepeated(self, rows: pa.Table, places: pa.Table, files: list[SourceFile | TableFile]) -> NDArray[np.bool_]:
        """[rows] which stay: of rows that say the same of one event the first, of those that contradict none."""
        event_id = self._schema.EVENT_ID
        if len(rows) == pc.count_distinct(rows[event_id]).as_py():
            return np.ones(len(rows), bool)

        label = {event_id, self._schema.LABEL.column, "label_timestamp"}
        same = ", ".join(f'"{name}"' for name in self._schema.EVENTS.names if name not in label)
        self._engine.register("rows", rows.append_column("place", pa.array(range(len(rows)), pa.int64())))
        lost = self._engine.sql(
            f"""
            SELECT place, CASE WHEN kinds > 1 THEN 'conflicting_id' ELSE 'duplicate' END AS reason FROM (
                SELECT place, row_number() OVER (PARTITION BY "{event_id}" ORDER BY place) AS nth,
                    count(DISTINCT hash({same})) OVER (PARTITION BY "{event_id}") AS kinds
                FROM rows
            ) WHERE kinds > 1 OR nth > 1 ORDER BY place
            """
        ).to_arrow_table()
        self._engine.unregister("rows")

        theirs = places.take(lost["place"])
        names = [files[number].name for number in theirs["file"].to_pylist()]
        why = lost["reason"].to_pylist()
        self._counts.update(why)
        raw = _as_text(self._engine, rows.take(lost["place"]))
        self._rejected.append(_with_places(raw, why, names, theirs["row"].to_numpy()))
        return np.isin(np.arange(len(rows)), lost["place"].to_numpy(), invert=True)


def _as_text(engine: duckdb.DuckDBPyConnection, raw: pa.Table) -> pa.Table:
    """Every column as text, under its own name."""
    engine.register("rejected", numbered(raw))
    text: pa.Table = engine.sql(
        f"SELECT CAST(COLUMNS(* EXCLUDE {PLACE}) AS VARCHAR) FROM rejected ORDER BY {PLACE}"
    ).to_arrow_table()
    engine.unregister("rejected")
    return text.rename_columns(raw.column_names)


def _with_places(raw: pa.Table, why: list[str], files: list[str], places: Any) -> pa.Table:
    columns: dict[str, Any] = {
        REASON: pa.array(why, pa.string()),
        SOURCE_FILE: pa.array(files, pa.string()),
        SOURCE_ROW: pa.array([int(place) + 1 for place in places], pa.int64()),
    }
    for name in raw.column_names:
        columns[f"raw_{name}" if name.lower() in columns else name] = raw[name]
    return pa.table(columns)


def rejected_rows(tables: list[pa.Table]) -> Iterator[Mapping[str, Any]]:
    """Rejected rows of all files, one after the other."""
    for table in tables:
        yield from table.to_pylist()
