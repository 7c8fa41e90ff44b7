"""Which day's files are where: content-chained keys, and the Parquet of the two tables, one file a day.

A day's features depend on every day before it, so a day's key hashes the key before it, its own rows and the
definition: a label that arrives late for an old day changes the key of that day and of all that follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud import features as f
from fraud.schema import TRANSACTION_SCHEMA
from fraud.stream import cents_of
from millrace.errors import InvalidInput, SchemaMismatch
from millrace.lake.atomic import replacing_file, sha256_text
from millrace.lake.manifest import Manifest, remote_hashes

_RAW = {field.name: field for field in TRANSACTION_SCHEMA}
LEADING_SCHEMA: Final = pa.schema(
    [
        *(_RAW[name] for name in ("transaction_id", "event_timestamp", "customer_id", "terminal_id")),
        pa.field("amount_cents", pa.int64(), nullable=False),
        *(_RAW[name] for name in ("is_fraud", "label_timestamp")),
        pa.field("terminal_risk", pa.float32(), nullable=False),
    ]
)
"""Columns of `transactions` before the carried ones; the features follow those."""
FEATURES_SCHEMA: Final = pa.schema([pa.field(name, pa.float32(), nullable=False) for name in f.FEATURE_NAMES])
TERMINAL_STATE_SCHEMA: Final = pa.schema(
    [
        *(_RAW[name] for name in ("terminal_id", "event_timestamp")),
        *(pa.field(name, pa.int64(), nullable=False) for name in f.TERMINAL_STATE_FIELDS),
    ]
)
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Day:
    """One calendar day: what the snapshot has of it and where the feature tables have it."""

    day: date
    source: Path | None
    """The snapshot's rows of this day; None when nothing happened."""
    transactions: Path
    terminal_state: Path
    elsewhere: Mapping[Path, str] = field(default_factory=dict)
    """Those files of all days that only the lake's remote has → their SHA-256."""

    @property
    def number(self) -> int:
        """Days since 1970."""
        return (self.day - _EPOCH).days

    @property
    def missing(self) -> bool:
        """Whether one of the files has yet to be computed."""
        return any(not path.exists() and path not in self.elsewhere for path in self.files)

    @property
    def files(self) -> list[Path]:
        """What the day has in the feature tables."""
        return [self.terminal_state] if self.source is None else [self.transactions, self.terminal_state]


def plan(snapshot: Manifest, lake: Path, root: str) -> list[Day]:
    """Every day from the snapshot's first to the one after its last; `root` starts the chain of keys.

    The terminal state of a day is that of the midnight it begins with, so it has the key of the day before.
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
        places = (lake / "features" / table / f"day={day}" for table in ("events", "terminal_state"))
        days.append(Day(day, source, next(places) / f"{key}.parquet", next(places) / f"{before}.parquet"))
    elsewhere = remote_hashes(path for day in days for path in day.files)
    return [replace(day, elsewhere=elsewhere) for day in days]


def carried_schema(sources: Sequence[Path]) -> pa.Schema:
    """Columns of the snapshot that are not ours; raises SchemaMismatch when one has the name of a column we add."""
    found = pa.unify_schemas([pq.read_schema(path).remove_metadata() for path in sources], promote_options="permissive")
    carried = pa.schema([column for column in found if column.name not in _RAW])
    taken = sorted(set(carried.names) & set(LEADING_SCHEMA.names + FEATURES_SCHEMA.names))
    if taken:
        raise SchemaMismatch(f"columns {taken} of the snapshot have the names of features. Rename them in the source.")
    return carried


def write_transactions(
    path: Path, rows: pa.Table, carried: pa.Schema, features: NDArray[np.float32], risk: NDArray[np.float32]
) -> None:
    """`rows` of a day, any order, with `features[B, F]` and `risk[B]` beside them; written in order of time and id."""
    ours = rows.append_column("amount_cents", cents_of(rows["amount"])).append_column("terminal_risk", pa.array(risk))
    columns = [ours[name] for name in LEADING_SCHEMA.names]
    for column in carried:
        known = column.name in rows.column_names
        columns.append(rows[column.name].cast(column.type) if known else pa.nulls(len(rows), column.type))
    columns += [pa.array(column) for column in np.ascontiguousarray(features.T)]
    table = pa.table(columns, schema=pa.schema([*LEADING_SCHEMA, *carried, *FEATURES_SCHEMA]))
    order = np.lexsort((rows["transaction_id"].to_numpy(), rows["event_timestamp"].cast(pa.int64()).to_numpy()))
    table = table if (np.diff(order) == 1).all() else table.take(pa.array(order))
    _write(path, table, dictionary=["customer_id", "terminal_id", "is_fraud"])


def write_terminal_state(
    path: Path, day: date, terminals: pa.Array | pa.ChunkedArray, refresh: NDArray[np.int64], state: NDArray[np.int64]
) -> None:
    """`state[S, C]` of `terminals[C]` as of `refresh[C]` of the day; in order of terminal and refresh."""
    first, every = (day - _EPOCH).days * f.DAY_US, f.DAY_US // f.REFRESHES_PER_DAY
    columns = [terminals, pa.array(first + refresh * every).cast(TERMINAL_STATE_SCHEMA.types[1])]
    columns += [pa.array(column) for column in state]
    counts = [name for name in f.TERMINAL_STATE_FIELDS if name.startswith(("count_", "labelled_"))]
    _write(path, pa.table(columns, schema=TERMINAL_STATE_SCHEMA), dictionary=["event_timestamp"], delta=counts)


def _write(path: Path, table: pa.Table, *, dictionary: list[str], delta: Sequence[str] = ()) -> None:
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
