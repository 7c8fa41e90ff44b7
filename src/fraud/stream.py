"""Transactions as columns that can be sorted and summed: integer keys, times and cents; and the engine itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from fraud.schema import TRANSACTION_SCHEMA


@contextmanager
def engine(threads: int, memory_limit_gb: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own that spills into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="millrace-duckdb-") as spill:
        limits: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "memory_limit": f"{memory_limit_gb}GB",
            "temp_directory": spill,
        }
        with duckdb.connect(config=limits) as connection:
            yield connection


class Transactions:
    """Transactions of a snapshot, or of anything with its columns, in one stable order; ids as integer codes.

    `table` has position, transaction_id, event_us, customer, terminal, amount_cents, is_fraud, label_us;
    `customers` and `terminals` are the ids behind the codes.
    """

    def __init__(self, rows: pa.Table) -> None:
        """`rows` as TRANSACTION_SCHEMA, or with `amount_cents` instead of `amount`."""
        customer, self.customers = _codes(rows["customer_id"])
        terminal, self.terminals = _codes(rows["terminal_id"])
        cents = rows["amount_cents"] if "amount_cents" in rows.column_names else cents_of(rows["amount"])
        self.table = pa.table(
            {
                "position": np.arange(len(rows)),
                "transaction_id": rows["transaction_id"],
                "event_us": rows["event_timestamp"].cast(pa.int64()),
                "customer": customer,
                "terminal": terminal,
                "amount_cents": cents,
                "is_fraud": rows["is_fraud"],
                "label_us": rows["label_timestamp"].cast(pa.int64()),
            }
        )

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Transactions:
        """The rows of a snapshot's partitions in the order of the files, without carried columns."""
        ids = ds.ParquetFileFormat(dictionary_columns=["customer_id", "terminal_id"])
        dataset = ds.dataset([str(path) for path in paths], format=ids)
        return cls(dataset.to_table(columns=TRANSACTION_SCHEMA.names))

    def column(self, name: str) -> NDArray[np.int64]:
        """A column without nulls as an array."""
        return np.asarray(self.table[name].to_numpy())


def as_utc(table: pa.Table) -> pa.Table:
    """The table with every timestamp in 'UTC', which is 'Etc/UTC' to DuckDB: equal instants, unequal types."""
    utc = TRANSACTION_SCHEMA.field("event_timestamp").type
    return table.cast(pa.schema([x.with_type(utc) if pa.types.is_timestamp(x.type) else x for x in table.schema]))


def cents_of(amount: pa.ChunkedArray) -> pa.ChunkedArray:
    """decimal(12, 2) → int64 cents, exact."""
    return pc.multiply(amount, pa.scalar(100, pa.decimal128(3, 0))).cast(pa.int64())


def _codes(ids: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[str]]:
    """String ids, dictionary-encoded or not → int32 codes, and the ids behind them in sorted order."""
    if not pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_encode()
    ids = ids.unify_dictionaries().combine_chunks()
    ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) and ids.num_chunks else ids
    if not len(ids):
        return pa.array([], pa.int32()), []
    order = pc.sort_indices(ids.dictionary).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return pa.array(rank[ids.indices.to_numpy()]), ids.dictionary.take(pa.array(order)).to_pylist()
