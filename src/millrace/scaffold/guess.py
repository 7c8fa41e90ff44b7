"""What the columns of a table are, guessed from names and values. A file in, a `Guess` and open questions out.

Nothing is decided that the values do not support: what is unsure is a question, with the option that answers it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import duckdb

from millrace.errors import InvalidInput, NotFound

LABEL_NAMES: Final = re.compile(
    r"label|target|y|class|outcome|churn(ed)?|converted|default(ed)?|fail(ed|ure)?|is_\w+|demand|sales?|quantity|"
    r"units(_sold)?|load|consumption|price|value|duration\w*|temperature",
    re.I,
)
"""In the order of the table the last column that is called so, and is a number or has two values, is the label."""
TIME_NAMES: Final = re.compile(r".*(time|date|day|_at|timestamp|ts|when|month)$", re.I)
ID_NAMES: Final = re.compile(r"(.*_)?(id|uuid|key|no|number)$", re.I)
NUMERIC: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
                  "FLOAT", "DOUBLE", "DECIMAL")  # fmt: skip
MAX_LEVELS: Final = 12
"""A text column with more different values is no category; one that repeats is a key, any other is left out."""
CLASSES: Final = ({"0", "1"}, {"0.0", "1.0"}, {"false", "true"})


@dataclass(frozen=True, slots=True)
class Column:
    """What can be seen of a column without knowing what it means."""

    name: str
    type: str
    rows: int
    distinct: int
    nulls: int
    low: Any
    high: Any
    mean: float
    """NaN for what is no number."""
    levels: tuple[str, ...]
    """Its values as text, where there are few."""

    @property
    def numeric(self) -> bool:
        return self.type.startswith(NUMERIC)

    @property
    def two_classes(self) -> bool:
        return {level.lower() for level in self.levels} in CLASSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A table as a workload would read it."""

    time: str
    label: str
    task: str
    id: str = ""
    """Empty: made from the row."""
    keys: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    columns: Mapping[str, Column] = field(default_factory=dict)


def columns_of(path: Path) -> dict[str, Column]:
    """The columns of a CSV or Parquet file; raises NotFound and InvalidInput, which name it."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}. Name a CSV or Parquet file: millrace new NAME --data FILE")

    with duckdb.connect() as connection:
        try:
            reader = "read_parquet(?)" if path.suffix == ".parquet" else "read_csv_auto(?)"
            connection.execute(f"CREATE TABLE given AS SELECT * FROM {reader}", [str(path)])
        except duckdb.Error as error:
            raise InvalidInput(f"{path} cannot be read as {path.suffix or 'CSV'}: {error}") from error

        described = connection.execute("DESCRIBE given").fetchall()
        rows = connection.execute("SELECT count(*) FROM given").fetchall()[0][0]
        if not rows:
            raise InvalidInput(f"{path} has no rows. Give a table with some hundreds of them.")
        return {name: _column(connection, name, kind, rows) for name, kind, *_ in described}


def _column(connection: duckdb.DuckDBPyConnection, name: str, kind: str, rows: int) -> Column:
    quoted = '"' + name.replace('"', '""') + '"'
    mean = f"avg({quoted})::DOUBLE" if kind.startswith(NUMERIC) else "'nan'::DOUBLE"
    query = (
        f"SELECT count(DISTINCT {quoted}), count(*) - count({quoted}), min({quoted}), max({quoted}), {mean} FROM given"
    )
    distinct, nulls, low, high, average = connection.execute(query).fetchall()[0]

    levels: tuple[str, ...] = ()
    if distinct <= MAX_LEVELS:
        found = f"SELECT DISTINCT {quoted}::VARCHAR FROM given WHERE {quoted} IS NOT NULL ORDER BY 1"
        levels = tuple(str(row[0]) for row in connection.execute(found).fetchall())
    return Column(name, kind, rows, distinct, nulls, low, high, average if average is not None else math.nan, levels)


def guess(columns: Mapping[str, Column], given: Mapping[str, Any]) -> tuple[Guess, list[str]]:
    """What each column is, and a question for all that is unsure; `given` are answers: time, label, id, task, keys, …

    Raises InvalidInput for an answer that names no column.
    """
    _require_known(columns, given)
    questions: list[str] = []
    time = given.get("time") or _only("time", "--time", _times(columns), questions)
    label = given.get("label") or _only("label", "--label", _labels(columns, {time}), questions)
    identity = given.get("id") or next(iter(_ids(columns, {time, label})), "")
    taken = {time, label, identity, *given.get("ignore", ())}
    keys = tuple(given.get("keys") or _keys(columns, taken))

    rest = [column for name, column in columns.items() if name not in {*taken, *keys}]
    categories = {
        column.name: column.levels for column in rest if not column.numeric and 1 < len(column.levels) <= MAX_LEVELS
    }
    numbers = tuple(column.name for column in rest if column.numeric and column.distinct > 1)
    kept = {*taken, *keys, *categories, *numbers}

    found = Guess(
        time=time,
        label=label,
        task=given.get("task") or (_task(columns[label]) if label else ""),
        id=identity,
        keys=keys,
        numbers=numbers,
        categories=categories,
        left_out=tuple(name for name in columns if name not in kept or name in given.get("ignore", ())),
        columns=columns,
    )
    return found, questions


def answered(found: Guess, **answers: Any) -> Guess:
    """The guess with what somebody has said."""
    return replace(found, **answers)


def _require_known(columns: Mapping[str, Column], given: Mapping[str, Any]) -> None:
    named = [given.get("time"), given.get("label"), given.get("id"), *given.get("keys", ()), *given.get("ignore", ())]
    for name in filter(None, named):
        if name not in columns:
            raise InvalidInput(f"the table has no column {name!r}; it has {', '.join(columns)}")


def _only(what: str, option: str, candidates: Sequence[str], questions: list[str]) -> str:
    """The one candidate; of several or none a question is left."""
    if len(candidates) == 1:
        return candidates[0]
    listed = f": {', '.join(candidates)}" if candidates else " that is sure"
    questions.append(f"{option} COLUMN: the {what} has {len(candidates) or 'no'} candidates{listed}")
    return candidates[-1] if candidates else ""


def _times(columns: Mapping[str, Column]) -> list[str]:
    found = [name for name, column in columns.items() if column.type.startswith(("TIMESTAMP", "DATE"))]
    named = [name for name in found if TIME_NAMES.match(name)]
    return named if len(named) == 1 else found


def _labels(columns: Mapping[str, Column], taken: set[str]) -> list[str]:
    able = [c for c in columns.values() if c.name not in taken and (c.numeric or c.two_classes) and c.distinct > 1]
    named = [column.name for column in able if LABEL_NAMES.fullmatch(column.name)]
    return named


def _ids(columns: Mapping[str, Column], taken: set[str]) -> list[str]:
    whole = [c for c in columns.values() if c.name not in taken and c.numeric and c.distinct == c.rows and not c.nulls]
    return [column.name for column in whole if ID_NAMES.match(column.name) and isinstance(column.low, int)]


def _keys(columns: Mapping[str, Column], taken: set[str]) -> list[str]:
    """Columns that name somebody or something again and again."""
    free = [column for column in columns.values() if column.name not in taken and column.distinct > 1]
    again = [column for column in free if column.distinct * 2 <= column.rows]
    named = [column.name for column in again if ID_NAMES.match(column.name)]
    texts = [c.name for c in again if c.type == "VARCHAR" and c.distinct > MAX_LEVELS]
    return list(dict.fromkeys(named + texts))


def _task(label: Column) -> str:
    return "classification" if label.two_classes else "regression"
