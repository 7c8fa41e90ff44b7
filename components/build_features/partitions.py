"""Which day's files are where: content-chained keys, and the Parquet of the tables, one file a day.

A day's features depend on every day before it, so a day's key hashes the key before it, its own rows and the
definition: a label that arrives late for an old day changes the key of that day and of all that follow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from millrace.errors import InvalidInput, SchemaMismatch
from millrace.fields import View
from millrace.installed import Workload
from millrace.instants import DAY_US, day_number
from millrace.lake.atomic import replacing_file, sha256_text
from millrace.lake.manifest import Manifest, remote_hashes

EVENTS: Final = "events"
"""The table of events; every refreshed view is another, under the view's name."""


@dataclass(frozen=True, slots=True)
class Day:
    """One calendar day: what the snapshot has of it and where the feature tables have it."""

    day: date
    before: str
    """Key of all days before this one."""
    source: Path | None
    """The snapshot's rows of this day; None when nothing happened."""
    events: Path
    states: Mapping[str, Path]
    """Refreshed view → its file."""
    elsewhere: Mapping[Path, str] = field(default_factory=dict)
    """Those files of all days that only the lake's remote has → their SHA-256."""

    @property
    def number(self) -> int:
        """Days since 1970."""
        return day_number(self.day)

    @property
    def missing(self) -> bool:
        """Whether one of the files has yet to be computed."""
        return any(not path.exists() and path not in self.elsewhere for path in self.files)

    @property
    def files(self) -> list[Path]:
        """What the day has in the feature tables."""
        return [*self.states.values()] if self.source is None else [self.events, *self.states.values()]


def plan(snapshot: Manifest, lake: Path, root: str, views: Sequence[View]) -> list[Day]:
    """Every day from the snapshot's first to the one after its last; `root` starts the chain of keys.

    States that depend on no event of their own day have the key of the day before.
    """
    sources = snapshot.facts["tables"]["events"]
    if not sources:
        raise InvalidInput(f"snapshot {snapshot.id} has no rows. Ingest at least one day.")
    first, last = date.fromisoformat(min(sources)), date.fromisoformat(max(sources))
    key, days = root, []
    for day in (first + timedelta(days=offset) for offset in range((last - first).days + 2)):
        source = Path(snapshot.uri) / sources[str(day)] if str(day) in sources else None
        # A partition's name is the hash of its rows (docs/architecture.md, The lake).
        before, key = key, sha256_text(key, str(day), source.stem if source else "")[:16]
        states = {view.name: _place(lake, view.name, day, key if view.same_day else before) for view in views}
        days.append(Day(day, before, source, _place(lake, EVENTS, day, key), states))
    elsewhere = remote_hashes(path for day in days for path in day.files)
    return [replace(day, elsewhere=elsewhere) for day in days]


def _place(lake: Path, table: str, day: date, key: str) -> Path:
    return lake / "features" / table / f"day={day}" / f"{key}.parquet"


def carried_schema(sources: Sequence[Path], workload: Workload) -> pa.Schema:
    """Columns of the snapshot that are not ours; raises SchemaMismatch when one has the name of a column we add."""
    twice = sorted(set(workload.batch.COLUMNS.names) & set(workload.features.FEATURE_NAMES))
    if twice:
        raise SchemaMismatch(
            f"workload {workload.name!r} calls a column and a feature {twice[0]!r}. Rename the feature."
        )

    found = pa.unify_schemas([pq.read_schema(path).remove_metadata() for path in sources], promote_options="permissive")
    raw = set(workload.schema.EVENTS.names)
    carried = pa.schema([column for column in found if column.name not in raw])
    taken = sorted(set(carried.names) & {*workload.batch.COLUMNS.names, *workload.features.FEATURE_NAMES})
    if taken:
        raise SchemaMismatch(f"columns {taken} of the snapshot have the names of features. Rename them in the source.")
    return carried


def write_events(
    path: Path,
    rows: pa.Table,
    workload: Workload,
    carried: pa.Schema,
    features: NDArray[np.float32],
    remembered: Mapping[str, NDArray[Any]],
) -> None:
    """`rows` of a day, any order, with features[B, F] and what is `remembered` of each beside them.

    They are written in order of time and id.
    """
    leading = workload.batch.COLUMNS
    inputs = pa.schema([pa.field(name, pa.float32(), nullable=False) for name in workload.features.FEATURE_NAMES])
    columns = [pa.array(remembered[name]) if name in remembered else rows[name] for name in leading.names]
    for column in carried:
        known = column.name in rows.column_names
        columns.append(rows[column.name].cast(column.type) if known else pa.nulls(len(rows), column.type))
    columns += [pa.array(column) for column in np.ascontiguousarray(features.T)]
    table = pa.table(columns, schema=pa.schema([*leading, *carried, *inputs]))
    ids, event_us = rows[workload.schema.EVENT_ID].to_numpy(), rows["event_timestamp"].cast(pa.int64()).to_numpy()
    order = np.lexsort((ids, event_us))
    table = table if (np.diff(order) == 1).all() else table.take(pa.array(order))
    _write(path, table, dictionary=[column.name for column in leading if _has_few_values(column.type)])


def write_states(
    path: Path, day: Day, view: View, workload: Workload, keys: pa.Array, refresh: NDArray[np.int64], state: Any
) -> None:
    """`state[S, C]` of the entities keys[C] as of refresh[C] of the day; in order of key and refresh."""
    first, every = day.number * DAY_US, DAY_US // workload.features.REFRESHES_PER_DAY
    key = pa.field(workload.entity(view.entity).key, pa.string(), nullable=False)
    stamp = workload.schema.EVENTS.field("event_timestamp")
    fields = [pa.field(name, kind, nullable=False) for name, kind in view.fields.items()]
    columns = [keys, pa.array(first + refresh * every).cast(stamp.type), *(pa.array(column) for column in state)]
    table = pa.table(columns, schema=pa.schema([key, stamp, *fields]))
    delta = [name for name in view.fields if name in workload.batch.SMALL_STEPS]
    _write(path, table, dictionary=[stamp.name], delta=delta)


def _has_few_values(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_int8(kind))


def _write(path: Path, table: pa.Table, *, dictionary: list[str], delta: Collection[str] = ()) -> None:
    """Ids and few values want a `dictionary`, small steps `delta`: elsewhere they cost more CPU than all the rest."""
    encoding = dict.fromkeys(delta, "DELTA_BINARY_PACKED")
    with replacing_file(path) as aside:
        # Statistics serve only to skip row groups, and a file is one day.
        statistics = ["event_timestamp"]
        pq.write_table(
            table,
            aside,
            compression="snappy",
            use_dictionary=dictionary,
            column_encoding=encoding or None,
            write_statistics=statistics,
        )
