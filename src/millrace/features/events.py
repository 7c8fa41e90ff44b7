"""Events of a snapshot as columns of integers and values, and the engine that sorts them.

In: tables with the columns of the workload's schema. Out: `Events`. What features are made of them is the workload's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from millrace.features.days import Events
from millrace.fields import Entity
from millrace.requests import SEPARATOR
from millrace.workload import Schema

INSTANT = pa.timestamp("us", tz="UTC")


@contextmanager
def engine(threads: int, memory_limit_gb: float, spill: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own, in UTC, that spills into a temporary folder (below `spill`, where that is given)."""
    with tempfile.TemporaryDirectory(prefix=".millrace-duckdb-", dir=spill) as folder:
        limits: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "memory_limit": f"{memory_limit_gb}GB",
            "temp_directory": folder,
        }
        with duckdb.connect(config=limits) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection


def read_rows(paths: Sequence[Path], schema: Schema) -> pa.Table:
    """The rows of a snapshot's partitions in the order of the files, without carried columns."""
    keys = [entity.key for entity in schema.ENTITIES if entity.key in schema.EVENTS.names]
    dataset = ds.dataset([str(path) for path in paths], format=ds.ParquetFileFormat(dictionary_columns=keys))
    return dataset.to_table(columns=schema.EVENTS.names)


def as_events(rows: pa.Table, schema: Schema, values: Mapping[str, Any]) -> Events:
    """`rows` with the columns of the schema that every workload has, and `values`: name → column [T]."""
    codes: dict[str, NDArray[np.int32]] = {}
    ids: dict[str, pa.Array] = {}
    for entity in sorted(schema.ENTITIES, key=lambda entity: len(entity.parts)):  # parts before what they make up
        if entity.constant:
            codes[entity.name], ids[entity.name] = np.zeros(len(rows), np.int32), pa.array([entity.constant])
        elif entity.parts:
            codes[entity.name], ids[entity.name] = _joined(entity, codes, ids)
        else:
            codes[entity.name], ids[entity.name] = key_codes(rows[entity.key])

    columns = {
        "position": np.arange(len(rows)),
        schema.EVENT_ID: rows[schema.EVENT_ID],
        "event_us": rows["event_timestamp"].cast(pa.int64()),
        **codes,
        **values,
        schema.LABEL.column: rows[schema.LABEL.column],
        "label_us": rows["label_timestamp"].cast(pa.int64()),
    }
    return Events(pa.table(columns), ids)


def key_codes(keys: pa.ChunkedArray) -> tuple[NDArray[np.int32], pa.Array]:
    """Text ids, dictionary-encoded or not → int32 codes, and the ids behind them in sorted order."""
    if not pa.types.is_dictionary(keys.type):
        keys = keys.dictionary_encode()
    keys = keys.unify_dictionaries().combine_chunks()
    keys = keys.chunk(0) if isinstance(keys, pa.ChunkedArray) and keys.num_chunks else keys
    if not len(keys):
        return np.empty(0, np.int32), pa.array([], pa.string())

    order = pc.sort_indices(keys.dictionary).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[keys.indices.to_numpy()], keys.dictionary.take(pa.array(order))


def as_utc(table: pa.Table) -> pa.Table:
    """The table with every timestamp in 'UTC', which is 'Etc/UTC' to DuckDB: equal instants, unequal types."""
    return table.cast(pa.schema([x.with_type(INSTANT) if pa.types.is_timestamp(x.type) else x for x in table.schema]))


def _joined(
    entity: Entity, codes: Mapping[str, NDArray[np.int32]], ids: Mapping[str, pa.Array]
) -> tuple[NDArray[np.int32], pa.Array]:
    """Codes and ids of an entity that is made up of others: their ids joined by `|`."""
    together = np.zeros(len(codes[entity.parts[0]]), np.int64)
    for part in entity.parts:
        together = together * max(len(ids[part]), 1) + codes[part]

    distinct, first, code = np.unique(together, return_index=True, return_inverse=True)
    names = pc.binary_join_element_wise(
        *(ids[part].take(pa.array(codes[part][first])) for part in entity.parts), SEPARATOR
    )

    order = pc.sort_indices(names).to_numpy()
    rank = np.empty(len(distinct), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[code], names.take(pa.array(order))
