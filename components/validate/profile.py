"""What a snapshot looks like: one set of daily aggregates, made by DuckDB in a few scans.

Parquet files in, small arrays out; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
from numpy.typing import NDArray

from millrace.fields import Field, Kind
from millrace.installed import Workload
from millrace.sql import literal, quoted

MINUTES: Final = 1440
ZERO_BIN: Final = 1100
BINS_PER_E: Final = 64
BINS: Final = 2 * ZERO_BIN
"""Bins of equal width in ±ln(1 + |value|), 64 to one step of e and ZERO_BIN on either side of 0: up to 29 million."""

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """What of a workload's events is aggregated."""

    values: tuple[Field, ...]
    """Fields whose distribution is watched; the label is one when it is a quantity."""
    label: str
    classes: bool
    """Whether the label is 0 or 1."""


@dataclass(frozen=True, slots=True)
class Values:
    """Daily aggregates of one field; NaN on a day without any value."""

    minimum: Floats  # [D]
    maximum: Floats  # [D]
    median: Floats  # [D]
    known: Counts  # [D] rows with a value
    bins: Counts  # [D, BINS] rows by value

    def take(self, chosen: NDArray[Any]) -> Values:
        """The days under `chosen`: a mask or positions."""
        return Values(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Daily aggregates; every array is [D] or [D, …] over `days`, which are the days that have rows."""

    days: Counts  # since 1970, ascending
    rows: Counts
    labelled: Counts
    positives: Counts  # rows with label 1; zeros where the label is a quantity
    nulls: dict[str, Counts]  # column → empty cells per day
    minutes: Counts  # [D, 1440] rows by minute of the day
    values: dict[str, Values]  # field → its aggregates

    def take(self, chosen: NDArray[Any]) -> Profile:
        """The days under `chosen`: a mask or positions."""
        return Profile(
            days=self.days[chosen],
            rows=self.rows[chosen],
            labelled=self.labelled[chosen],
            positives=self.positives[chosen],
            nulls={column: counts[chosen] for column, counts in self.nulls.items()},
            minutes=self.minutes[chosen],
            values={name: values.take(chosen) for name, values in self.values.items()},
        )

    def __len__(self) -> int:
        return len(self.days)


def measured(workload: Workload) -> Measured:
    """Fields that are quantities, in order; what the label is."""
    schema = workload.schema
    kinds = {field.name: field.kind for field in schema.FIELDS}
    quantities = tuple(field for field in schema.FIELDS if field.kind in (Kind.MONEY, Kind.NUMBER, Kind.WHOLE))
    return Measured(quantities, schema.LABEL.column, kinds[schema.LABEL.column] is Kind.CLASS)


def connect(threads: int, memory_limit_gb: float) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that keeps to its share of the machine."""
    return duckdb.connect(config={"threads": threads, "memory_limit": f"{memory_limit_gb}GB"})


def profile(db: duckdb.DuckDBPyConnection, files: Sequence[Path], what: Measured) -> Profile:
    """Aggregate the rows of `files` (a snapshot's partitions), whatever further columns are called."""
    columns = [name for name, *_ in db.sql(f"describe {select('*', files)}").fetchall()]
    label = quoted(what.label)
    asked = [_DAY, "count(*) as rows", f"count({label}) as labelled"]
    asked.append(f"count(*) filter ({label} = 1) as positives" if what.classes else "0 as positives")
    asked += [f"count(*) - count({quoted(column)}) as null_{place}" for place, column in enumerate(columns)]
    for place, field in enumerate(what.values):
        asked += _aggregates(quoted(field.name), place)

    daily = db.sql(f"{select(', '.join(asked), files)} group by day order by day").fetchnumpy()
    days = np.asarray(daily["day"], np.int64)
    return Profile(
        days=days,
        rows=np.asarray(daily["rows"], np.int64),
        labelled=np.asarray(daily["labelled"], np.int64),
        positives=np.asarray(daily["positives"], np.int64),
        nulls={column: np.asarray(daily[f"null_{place}"], np.int64) for place, column in enumerate(columns)},
        minutes=_histogram(db, files, "(epoch_us(event_timestamp) // 60000000) % 1440", days, MINUTES),
        values={
            field.name: _values(daily, place, _histogram(db, files, _bin(quoted(field.name)), days, BINS))
            for place, field in enumerate(what.values)
        },
    )


def entity_activity(
    db: duckdb.DuckDBPyConnection,
    key: str,
    seen: Sequence[Path],
    reference: Sequence[Path],
    current: Sequence[Path],
) -> dict[str, Counts]:
    """Per value of `key`, SQL over the columns: rows in `reference` and `current`, and whether it is in `seen`."""
    parts = [
        f"{select(f'{key} as id, 0 as reference, count(*) as current, 0 as seen', current)} group by 1",
        f"{select(f'{key}, count(*), 0, 1', reference)} group by 1",
        select(f"distinct {key}, 0, 0, 1", seen),
    ]

    table = db.sql(
        f"""select sum(reference)::bigint as reference, sum(current)::bigint as current, max(seen)::bigint as seen
            from ({" union all ".join(parts)}) group by id"""
    ).fetchnumpy()
    return {name: np.asarray(values, np.int64) for name, values in table.items()}


def first_seen(db: duckdb.DuckDBPyConnection, key: str, files: Sequence[Path], days: Counts) -> Counts:
    """How many values of `key`, SQL over the columns, appear for the first time, for each of `days`."""
    first = select(f"{key} as id, {_DAY}", files)
    source = f"select id, min(day) as day from ({first}) group by id"
    found = dict(db.sql(f"select day, count(*) from ({source}) group by day").fetchall())
    return np.array([found.get(int(day), 0) for day in days], np.int64)


_DAY: Final = "epoch_us(event_timestamp) // 86400000000 as day"
"""Times are UTC, so no time zone is consulted."""


def _aggregates(column: str, place: int) -> list[str]:
    return [
        f"min({column})::double as min_{place}",
        f"max({column})::double as max_{place}",
        f"median({column}::float)::double as median_{place}",
        f"count({column}) as known_{place}",
    ]


def _values(daily: dict[str, Any], place: int, bins: Counts) -> Values:
    low, high, middle = (_filled(daily[f"{name}_{place}"]) for name in ("min", "max", "median"))
    return Values(low, high, middle, np.asarray(daily[f"known_{place}"], np.int64), bins)


def _filled(column: Any) -> Floats:
    """DuckDB masks what is null."""
    return np.ma.filled(np.ma.asarray(column, np.float64), np.nan)


def _bin(column: str) -> str:
    value = f"{column}::double"
    return f"({ZERO_BIN} + floor({BINS_PER_E} * sign({value}) * ln(1 + abs({value}))))::bigint"


def _histogram(db: duckdb.DuckDBPyConnection, files: Sequence[Path], value: str, days: Counts, bins: int) -> Counts:
    """[D, bins] rows by day and by `value`, SQL for the number of a bin; rows without one are left out."""
    counted = f"{select(f'{_DAY}, {value} as bin, count(*) as rows', files)} group by all"
    found = db.sql(f"select * from ({counted}) where bin is not null").fetchnumpy()
    counts = np.zeros((len(days), bins), np.int64)
    place = np.searchsorted(days, np.asarray(found["day"], np.int64))
    np.add.at(counts, (place, np.clip(np.asarray(found["bin"], np.int64), 0, bins - 1)), found["rows"])
    return counts


def select(what: str, files: Iterable[Path]) -> str:
    names = ", ".join(literal(path) for path in files)
    return f"select {what} from read_parquet([{names}], union_by_name = true, hive_partitioning = false)"
