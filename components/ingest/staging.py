"""Valid rows on their way into partitions: a DuckDB table that spills to disk, where ids are made unique.

Rules for rows that share an event id, whatever file or day they come from:

- the same in every field but the label: one event. The row that knows its label wins, then the one that learned it
  last; the others are `duplicate`, or `superseded_label` when their label differs from the winner's.
- anything else: nobody can say which is true, so all of them are `conflicting_id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from millrace.reading.casts import carried_name
from millrace.sql import literal, quoted
from millrace.workload import Schema

_ROWS_AT_ONCE: Final = 1_000_000


class Staging:
    """All rows of the days that are being made."""

    def __init__(
        self, folder: Path, workload: Schema, carried: pa.Schema, memory_limit_gb: float, threads: int
    ) -> None:
        self.schema = pa.schema([*workload.EVENTS, *carried])
        self._carried = [carried_name(place) for place in range(len(carried))]
        self._inside = [*workload.EVENTS.names, *self._carried]
        self._names = ", ".join(quoted(name) for name in self._inside)
        self._id = quoted(workload.EVENT_ID)
        self._label = quoted(workload.LABEL.column)
        unlike = {workload.EVENT_ID, workload.LABEL.column, "label_timestamp"}
        self._identity = ", ".join(quoted(name) for name in workload.EVENTS.names if name not in unlike)

        self.db = duckdb.connect()
        for setting, value in {
            "TimeZone": "UTC",
            "memory_limit": f"{memory_limit_gb}GB",
            "threads": threads,
            "temp_directory": folder,
        }.items():
            self.db.execute(f"SET {setting} = {literal(value)}")
        self._create()

    def close(self) -> None:
        self.db.close()

    def query(self, sql: str, **tables: pa.Table) -> pa.Table:
        """The whole result of `sql` over Arrow tables registered under their names."""
        with self._registered(tables):
            result: pa.Table = self.db.sql(sql).to_arrow_table()
        return result

    def tuples(self, sql: str, **tables: pa.Table) -> list[tuple[Any, ...]]:
        """The same row by row; for small results."""
        return list(zip(*self.query(sql, **tables).to_pydict().values(), strict=True))

    def add(self, batch: pa.Table, days: Iterable[int] | None) -> None:
        """Stage typed rows with `__segment`, `__row` and `__day`; of all days, or only those in `days`."""
        only = "" if days is None else f"WHERE __day IN ({_listed(days)})"
        with self._registered({"batch": batch}):
            self.db.execute(f"INSERT INTO staged SELECT {self._names}, __segment, __row, __day FROM batch {only}")

    def days_touched_elsewhere(self, partitions: dict[int, Path], conflicts: Sequence[tuple[int, int]]) -> set[int]:
        """Days already made that hold an id that is staged too: they have to be made again."""
        touched: set[int] = set()
        if conflicts:
            known = pa.table({"id": [row for row, _ in conflicts], "day": [day for _, day in conflicts]})
            rows = self.tuples(f"SELECT DISTINCT day FROM known SEMI JOIN staged ON id = {self._id}", known=known)
            touched |= {day for (day,) in rows}

        for day, path in partitions.items():
            sql = f"SELECT 1 AS hit FROM {literal(path)} SEMI JOIN staged USING ({self._id}) LIMIT 1"
            if self.tuples(sql):
                touched.add(day)

        return touched

    def id_range(self) -> tuple[int, int] | None:
        """Smallest and largest id that is staged."""
        low, high = self.tuples(f"SELECT min({self._id}) AS low, max({self._id}) AS high FROM staged")[0]
        return None if low is None else (low, high)

    def settle_repeated(self) -> pa.Table:
        """Take rows that lost or clashed out of the stage: `segment, row, day, event_id, reason`."""
        self.db.execute(
            f"CREATE OR REPLACE TEMP TABLE repeated AS SELECT {self._id} FROM staged GROUP BY 1 HAVING count(*) > 1"
        )
        self.db.execute(f"CREATE OR REPLACE TEMP TABLE losers AS {self._losers_sql()}")
        losers = self.query("SELECT * FROM losers ORDER BY segment, row")
        if len(losers):
            self.db.execute("DELETE FROM staged USING losers WHERE __segment = losers.segment AND __row = losers.row")
        return losers

    def _losers_sql(self) -> str:
        tie = "".join(f", CAST({name} AS VARCHAR)" for name in self._carried)
        one = self._id
        label = self._label

        return f"""
            WITH suspects AS (SELECT * FROM staged SEMI JOIN repeated USING ({one})),
            counted AS (SELECT {one}, count(DISTINCT hash({self._identity})) AS versions FROM suspects GROUP BY 1),
            ranked AS (
                SELECT __segment, __row, __day, {one}, versions, {label} AS __label, label_timestamp,
                    row_number() OVER best AS place,
                    first_value({label}) OVER best AS best_label, first_value(label_timestamp) OVER best AS best_time
                FROM suspects JOIN counted USING ({one})
                WINDOW best AS (PARTITION BY {one} ORDER BY label_timestamp DESC NULLS LAST,
                    {label} DESC NULLS LAST{tie}, __segment, __row)
            )
            SELECT __segment AS segment, __row AS row, __day AS day, {one} AS event_id, CASE
                WHEN versions > 1 THEN 'conflicting_id'
                WHEN __label IS DISTINCT FROM best_label OR label_timestamp IS DISTINCT FROM best_time
                THEN 'superseded_label' ELSE 'duplicate' END AS reason
            FROM ranked WHERE versions > 1 OR place > 1
            """

    def days(self) -> Iterator[tuple[int, pa.Table]]:
        """Every staged day, oldest first, its rows in order; about a million rows are held at a time."""
        counts = self.tuples("SELECT __day, count(*) AS n FROM staged GROUP BY 1 ORDER BY 1")
        for first, last in _groups(counts):
            table = self.query(
                f"SELECT {self._names}, __day FROM staged WHERE __day BETWEEN {first} AND {last} "
                f"ORDER BY event_timestamp, {self._id}"
            )

            start = 0
            for day, rows in counts:
                if first <= day <= last:
                    found = table.slice(start, rows).drop_columns(["__day"])
                    yield day, found.rename_columns(self.schema.names).cast(self.schema)
                    start += rows

    def _create(self) -> None:
        internal = [pa.field("__segment", pa.int32()), pa.field("__row", pa.int64()), pa.field("__day", pa.int32())]
        ours = [pa.field(name, field.type) for name, field in zip(self._inside, self.schema, strict=True)]
        empty = pa.schema([*ours, *internal]).empty_table()
        with self._registered({"empty": empty}):
            self.db.execute("CREATE TABLE staged AS FROM empty")

    @contextmanager
    def _registered(self, tables: dict[str, pa.Table]) -> Iterator[None]:
        for name, table in tables.items():
            self.db.register(name, table)
        try:
            yield
        finally:
            for name in tables:
                self.db.unregister(name)


def _groups(counts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs of days with about _ROWS_AT_ONCE rows together: (first, last)."""
    groups: list[tuple[int, int]] = []
    rows = _ROWS_AT_ONCE
    for day, count in counts:
        if rows + count > _ROWS_AT_ONCE:
            groups.append((day, day))
            rows = 0
        groups[-1] = (groups[-1][0], day)
        rows += count
    return groups


def _listed(days: Iterable[int]) -> str:
    return ", ".join(str(int(day)) for day in sorted(days)) or "NULL"
