"""What the values of each raw column look like: numbers and their marks, times and their formats, how they repeat.

Rows of a source's first and last files are looked at, 50,000 at most; where those leave a question, rows spread over
the whole source. A column is described without its meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import duckdb
import pyarrow as pa

from millrace.errors import InvalidInput
from millrace.reading.columns import lacking
from millrace.reading.document import ColumnsDocument
from millrace.reading.numerals import numeral
from millrace.reading.raw import Reader
from millrace.reading.readers import open_reader
from millrace.reading.sources import list_files
from millrace.sql import quoted
from millrace.workload import Schema

MOST_ROWS: Final = 50_000
MOST_EACH: Final = 20_000
"""Rows of a part of a file, where all parts are looked at."""
FEW_LEVELS: Final = 12
_MARKS: Final = ((".", ""), (",", ""), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"))
"""(decimal mark, mark between thousands), the plainest first."""
_DAYS: Final = (
    "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%y",
    "%d/%m/%y", "%m/%d/%y", "%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%Y-%m-%d",
)  # fmt: skip
_CLOCKS: Final = ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p", " %H:%M:%S.%f", "%H%M%S", " %H.%M")
_CLOCK: Final = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?")


@dataclass(frozen=True, slots=True)
class Column:
    """One raw column of the sample."""

    name: str
    type: str
    rows: int
    filled: int
    distinct: int
    examples: tuple[str, ...]
    levels: dict[str, int] = field(default_factory=dict)
    """Text → rows, where there are FEW_LEVELS at most."""
    low: float | None = None
    """Smallest number; None where some value is no number."""
    high: float | None = None
    whole: bool = False
    marks: tuple[str, str] = (".", "")
    """Decimal mark and mark between thousands with which all values are numbers."""
    negative: int = 0
    precise: int = 0
    """Numbers with more than two decimals."""
    formats: tuple[str, ...] = ()
    """`strptime` formats that read every value; empty for ISO 8601 and for what is no time."""
    iso: bool = False
    """Every value is a time in ISO 8601, or of a type for times."""
    clock: bool = False
    """Every value is a time of day alone."""

    @property
    def numeric(self) -> bool:
        return self.low is not None

    @property
    def time(self) -> bool:
        return self.iso or bool(self.formats)


def sample(source: str, schema: Schema, document: ColumnsDocument, *, throughout: bool = False) -> tuple[pa.Table, int]:
    """Raw rows as text, and the number of files; raises what reading the files raises.

    They are the first MOST_ROWS of the first and last files; or, `throughout`, some of each part of all files, which
    reads everything.
    """
    files = list_files(source)
    asking_nothing = lacking(schema, [one.name for one in schema.FIELDS])
    looked_at = files if throughout or len(files) < 3 else [files[0], files[-1]]
    plain = document.model_copy(update={"columns": {}})
    tables = []
    for file in looked_at:
        reader = open_reader(file, asking_nothing, plain)
        parts = _parts(reader) if throughout else [reader.beginning().table]
        tables += [_texts(part.slice(0, MOST_ROWS // len(looked_at))) for part in parts]
    found = pa.concat_tables(tables, promote_options="default")
    if not len(found):
        raise InvalidInput(f"{files[0].name} has a header and no rows; wanted at least one")
    return found, len(files)


def profile(table: pa.Table) -> list[Column]:
    """The columns of a table of texts."""
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        engine.register("given", table)
        return [_column(engine, name, len(table)) for name in table.column_names]


def _parts(reader: Reader) -> Iterator[pa.Table]:
    """Evenly spread rows of each part of a file."""
    for stretch in reader.scan([]):
        for rows in stretch.read():
            every = max(len(rows.table) // MOST_EACH, 1)
            yield rows.table.take(pa.array(range(0, len(rows.table), every), pa.int64()))


def _texts(table: pa.Table) -> pa.Table:
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        engine.register("given", table)
        columns = [
            f"nullif(trim(CAST({quoted(name)} AS VARCHAR)), '') AS {quoted(name)}" for name in table.column_names
        ]
        return engine.sql(f"SELECT {', '.join(columns)} FROM given").to_arrow_table()


def _column(engine: duckdb.DuckDBPyConnection, name: str, rows: int) -> Column:
    """Each step asks only what the one before left open."""
    engine.execute(
        f"CREATE OR REPLACE TABLE seen AS SELECT {quoted(name)} AS v, count(*) AS n FROM given "
        f"WHERE {quoted(name)} IS NOT NULL GROUP BY 1"
    )
    distinct, filled = _one(engine, "SELECT count(*), coalesce(sum(n), 0)::BIGINT FROM seen")
    examples = tuple(row[0] for row in engine.execute("SELECT v FROM seen ORDER BY n DESC, v LIMIT 3").fetchall())
    found = Column(name, "text", rows, filled, distinct, examples)
    if not filled:
        return replace(found, type="empty")

    if distinct <= FEW_LEVELS:
        levels = engine.execute("SELECT v, n::BIGINT FROM seen ORDER BY n DESC, v").fetchall()
        found = replace(found, levels={str(text): int(n) for text, n in levels})
    found = _as_number(engine, found)
    return found if found.numeric and "%Y%m%d" not in found.formats else _as_time(engine, found)


def _as_number(engine: duckdb.DuckDBPyConnection, column: Column) -> Column:
    for decimal, thousands in _MARKS:
        value = f"TRY_CAST({numeral('v', decimal, thousands)} AS DOUBLE)"
        sql = f"""
            SELECT count(*) FILTER (x IS NULL OR NOT isfinite(x)), min(x), max(x), bool_and(x = trunc(x)),
                coalesce(sum(n) FILTER (x < 0), 0)::BIGINT,
                coalesce(sum(n) FILTER (abs(x * 100 - round(x * 100)) > 1e-4), 0)::BIGINT
            FROM (SELECT {value} AS x, n FROM seen)
            """
        unread, low, high, whole, negative, precise = _one(engine, sql)
        if unread == 0:
            kind = "whole number" if whole else "number"
            numbers = {"low": low, "high": high, "whole": bool(whole), "negative": negative, "precise": precise}
            found = replace(column, type=kind, marks=(decimal, thousands), **numbers)
            dated = whole and low >= 19000101 and high <= 22001231
            return replace(found, formats=("%Y%m%d",)) if dated and _reads(engine, "%Y%m%d") else found
    return column


def _as_time(engine: duckdb.DuckDBPyConnection, column: Column) -> Column:
    if all(_CLOCK.fullmatch(text) for text in column.examples):
        return replace(column, type="time of day", clock=True)

    iso, dotted = _one(engine, "SELECT count(TRY_CAST(v AS TIMESTAMPTZ)) = count(*), bool_or(v LIKE '%-%') FROM seen")
    if iso and dotted:
        return replace(column, type="time", iso=True)
    formats = [day + clock for day in _DAYS for clock in _CLOCKS if _reads(engine, day + clock)]
    return replace(column, type="time" if formats else column.type, formats=tuple(formats))


def _reads(engine: duckdb.DuckDBPyConnection, form: str) -> bool:
    """Whether a format reads every value; a few are tried first."""
    few = _one(engine, f"SELECT count(try_strptime(v, '{form}')) = count(*) FROM (SELECT v FROM seen LIMIT 20)")[0]
    return bool(few and _one(engine, f"SELECT count(try_strptime(v, '{form}')) = count(*) FROM seen")[0])


def _one(engine: duckdb.DuckDBPyConnection, sql: str) -> Sequence[Any]:
    return cast(Sequence[Any], engine.execute(sql).fetchone())
