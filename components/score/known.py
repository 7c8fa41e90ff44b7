"""What was known before the rows of a file: the events that a registered model's features were made from.

In: a model's manifest, whose parents lie in the lake, and the rows to score. Out: those earlier events that the states
of the rows' entities may depend on. States themselves are made by `rows.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millrace.errors import NotFound
from millrace.features.events import as_utc, engine
from millrace.installed import Workload, load
from millrace.instants import DAY_US, date_of
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import remembered_by


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """H earlier events in the order of time and id."""

    events: pa.Table
    """Columns of the workload's schema."""
    remembered: Mapping[str, NDArray[Any]]
    """[H] each: what the recent view keeps of an event beside its id and time, by field."""


def nothing_known(workload: Workload) -> Known:
    """No earlier event: every state is made of the file's own rows."""
    fields = {} if workload.recent is None else remembered_by(workload.recent)
    empty: dict[str, NDArray[Any]] = {name: np.empty(0, dtype) for name, dtype in fields.items()}
    return Known(workload.schema.EVENTS.empty_table(), empty)


def known_before(
    rows: pa.Table, model: Manifest, lake: Path, *, threads: int, memory_limit_gb: float
) -> tuple[Known, pa.Table]:
    """The events behind `model`, but for the rows themselves; and the rows with the labels that are known of them.

    A row is the same event as one of the model's data when id and time are equal. Raises NotFound when the lake has
    lost the data, ArtifactCorrupt when a file differs from its manifest.
    """
    workload = load(model.workload)
    last = date_of(pc.max(rows["event_timestamp"]).cast(pa.int64()).as_py() // DAY_US)
    snapshot, feature_set = (_parent(model, kind, lake) for kind in ("snapshot", "feature_set"))
    files = _whole(snapshot, last)
    if not files:
        return nothing_known(workload), rows

    with engine(threads, memory_limit_gb) as connection:
        connection.register("probes", rows)
        connection.execute(_past_sql(workload), [files])
        events, remembered = _before(connection, workload, feature_set, last)
        labelled = _labelled(connection, workload, rows)
    return Known(events, remembered), labelled


def _parent(model: Manifest, kind: str, lake: Path) -> Manifest:
    identity = model.parents.get(kind, "")
    found = Manifest.find(lake, kind, identity) if identity else None
    if found is None:
        raise NotFound(
            f"the {kind.replace('_', ' ')} {identity or '(none)'} that model {model.id} came from is not in {lake}, so "
            "nothing before the file is known. Make it again (make run), or score from the file alone: --no-history"
        )
    return found


def _whole(artifact: Manifest, last: date) -> list[str]:
    """The files of its events up to a day, verified."""
    files = artifact.table("events", last_day=last)
    artifact.verify(set(files))
    return [str(file) for file in files]


def _past_sql(workload: Workload) -> str:
    """Makes `past`: files in the columns of the schema; those of earlier days may lack a later column."""
    columns = ", ".join(f'"{name}"' for name in workload.schema.EVENTS.names)
    return f"CREATE TEMP TABLE past AS SELECT {columns} FROM read_parquet($1, union_by_name = true)"


def _before(
    connection: duckdb.DuckDBPyConnection, workload: Workload, feature_set: Manifest, last: date
) -> tuple[pa.Table, dict[str, NDArray[Any]]]:
    schema, event_id = workload.schema.EVENTS, workload.schema.EVENT_ID
    fields = {} if workload.recent is None else remembered_by(workload.recent)
    kept = "".join(f', "{name}"' for name in fields)
    joined = ""
    parameters: list[Any] = []
    if fields:
        parameters = [_whole(feature_set, last)]
        joined = f'JOIN (SELECT "{event_id}"{kept} FROM read_parquet($1)) USING ("{event_id}")'

    found = connection.sql(
        f"""
        SELECT relevant.*{kept}
        FROM (SELECT * FROM past WHERE {workload.batch.RELEVANT}) AS relevant {joined}
        WHERE NOT EXISTS (
            SELECT 1 FROM probes
            WHERE probes."{event_id}" = relevant."{event_id}"
            AND probes.event_timestamp = relevant.event_timestamp
        )
        ORDER BY event_timestamp, "{event_id}"
        """,
        params=parameters,
    ).to_arrow_table()
    remembered = {name: found[name].to_numpy().astype(dtype) for name, dtype in fields.items()}
    return as_utc(found.select(schema.names)).cast(schema), remembered


def _labelled(connection: duckdb.DuckDBPyConnection, workload: Workload, rows: pa.Table) -> pa.Table:
    """Rows whose labels the file lacks and the model's data have get them, with the time that they became known."""
    event_id, label = workload.schema.EVENT_ID, workload.schema.LABEL.column
    connection.register("placed", rows.append_column("place", pa.array(range(len(rows)), pa.int64())))
    found = connection.sql(
        f"""
        SELECT placed.place, past."{label}" AS label, past.label_timestamp AS known
        FROM placed
        JOIN past ON past."{event_id}" = placed."{event_id}" AND past.event_timestamp = placed.event_timestamp
        WHERE placed."{label}" IS NULL AND past."{label}" IS NOT NULL
        """
    ).to_arrow_table()
    if not len(found):
        return rows

    missing = np.zeros(len(rows), bool)
    missing[found["place"].to_numpy()] = True
    mask = pa.array(missing)
    order = found.sort_by("place")
    for column, values in ((label, order["label"]), ("label_timestamp", as_utc(order.select(["known"]))["known"])):
        field = rows.schema.field(column)
        filled = pc.replace_with_mask(rows[column].combine_chunks(), mask, values.cast(field.type).combine_chunks())
        rows = rows.set_column(rows.schema.get_field_index(column), field, filled)
    return rows
