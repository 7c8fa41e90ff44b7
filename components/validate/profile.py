"""What a snapshot looks like: one set of daily aggregates, made by DuckDB in a few scans.

Parquet files in, small arrays out; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
from numpy.typing import NDArray

MINUTES: Final = 1440
AMOUNT_BINS: Final = 1100
"""Bins of equal width in ln(1 + amount), 64 to one step of e: a thousand currency units and far beyond."""
EPOCH: Final = date(1970, 1, 1)

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Daily aggregates; every array is [D] or [D, …] over `days`, which are the days that have rows."""

    days: NDArray[np.int64]  # since 1970, ascending
    rows: Counts
    labelled: Counts
    frauds: Counts
    amount_min: NDArray[np.float64]
    amount_max: NDArray[np.float64]
    amount_median: NDArray[np.float64]
    nulls: dict[str, Counts]  # column → empty cells per day
    minutes: Counts  # [D, 1440] rows by minute of the day
    amounts: Counts  # [D, AMOUNT_BINS] rows by amount

    def take(self, chosen: NDArray[Any]) -> Profile:
        """The days under `chosen`: a mask or positions."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        nulls = {column: counts[chosen] for column, counts in values.pop("nulls").items()}
        return Profile(nulls=nulls, **{name: value[chosen] for name, value in values.items()})

    def __len__(self) -> int:
        return len(self.days)


def as_day(number: int | np.integer[Any]) -> date:
    """Day number since 1970 → date."""
    return EPOCH + timedelta(days=int(number))


def day_number(day: date) -> int:
    return (day - EPOCH).days


def connect(threads: int, memory_limit_gb: float) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that keeps to its share of the machine."""
    return duckdb.connect(config={"threads": threads, "memory_limit": f"{memory_limit_gb}GB"})


def profile(db: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> Profile:
    """Aggregate the rows of `files` (columns as TRANSACTION_SCHEMA, then carried ones)."""
    source = _source(files)
    columns = [name for name, *_ in db.sql(f"describe {source}").fetchall() if name not in ("day", "minute", "bin")]
    nulls = ", ".join(f'count(*) - count("{column}") as "null {column}"' for column in columns)
    daily = db.sql(
        f"""select day, count(*) as rows, count(is_fraud) as labelled, count(*) filter (is_fraud = 1) as frauds,
            min(amount)::double as amount_min, max(amount)::double as amount_max,
            median(amount::float)::double as amount_median, {nulls} from ({source}) group by day order by day"""
    ).fetchnumpy()
    days = np.asarray(daily["day"], np.int64)
    names = ("rows", "labelled", "frauds", "amount_min", "amount_max", "amount_median")
    return Profile(
        days=days,
        **{name: np.asarray(daily[name]) for name in names},
        nulls={column: np.asarray(daily[f"null {column}"], np.int64) for column in columns},
        minutes=_histogram(db, source, "minute", days, MINUTES),
        amounts=_histogram(db, source, "bin", days, AMOUNT_BINS),
    )


def entity_activity(
    db: duckdb.DuckDBPyConnection,
    entity: str,
    seen: Sequence[Path],
    reference: Sequence[Path],
    current: Sequence[Path],
) -> dict[str, Counts]:
    """Per value of column `entity`: rows in `reference` and `current`, and whether it is anywhere in `seen`."""
    parts = [
        f"select {entity} as id, 0 as reference, count(*) as current, 0 as seen from {_scan(current)} group by 1",
        f"select {entity}, count(*), 0, 1 from {_scan(reference)} group by 1",
        f"select distinct {entity}, 0, 0, 1 from {_scan(seen)}",
    ]
    table = db.sql(
        f"""select sum(reference)::bigint as reference, sum(current)::bigint as current, max(seen)::bigint as seen
            from ({" union all ".join(parts)}) group by id"""
    ).fetchnumpy()
    return {name: np.asarray(values, np.int64) for name, values in table.items()}


def first_seen(db: duckdb.DuckDBPyConnection, entity: str, files: Sequence[Path], days: Counts) -> Counts:
    """How many values of column `entity` appear for the first time, for each of `days`."""
    source = f"select {entity}, min(day) as day from ({_source(files)}) group by {entity}"
    found = dict(db.sql(f"select day, count(*) from ({source}) group by day").fetchall())
    return np.array([found.get(int(day), 0) for day in days], np.int64)


def _histogram(db: duckdb.DuckDBPyConnection, source: str, column: str, days: Counts, bins: int) -> Counts:
    found = db.sql(f"select day, {column} as bin, count(*) as rows from ({source}) group by all").fetchnumpy()
    counts = np.zeros((len(days), bins), np.int64)
    place = np.searchsorted(days, np.asarray(found["day"], np.int64))
    np.add.at(counts, (place, np.clip(np.asarray(found["bin"], np.int64), 0, bins - 1)), found["rows"])
    return counts


def _source(files: Sequence[Path]) -> str:
    """Rows with their day, minute of the day and amount bin; times are UTC, so no time zone is consulted."""
    minute = "(epoch_us(event_timestamp) // 60000000) % 1440"
    amount_bin = "floor(64 * ln(1 + greatest(amount::double, 0)))::bigint"
    day = "epoch_us(event_timestamp) // 86400000000"
    return f"select *, {day} as day, {minute} as minute, {amount_bin} as bin from {_scan(files)}"


def _scan(files: Iterable[Path]) -> str:
    names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    return f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"
