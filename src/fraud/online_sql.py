"""What the online store holds of customers and terminals at an instant, derived from the feature tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.features import CUSTOMER_STATE_FIELDS
from fraud.stream import as_utc

_ENTRY = dict(
    zip(
        CUSTOMER_STATE_FIELDS,
        ("transaction_id", "epoch_us(event_timestamp)", "amount_cents", "terminal_risk"),
        strict=True,
    )
)
"""Array of a customer's state → what each of its entries is in the table of transactions."""


def customer_states(
    connection: duckdb.DuckDBPyConnection, transactions: Sequence[Path], as_of_us: int, history_length: int
) -> pa.Table:
    """The last `history_length` transactions before `as_of_us` of every customer that has one.

    customer_id, event_timestamp (of the newest), then CUSTOMER_STATE_FIELDS as lists, oldest first; sorted by customer.
    """
    lists = ", ".join(
        f"list({entry} ORDER BY event_timestamp, transaction_id) AS {name}" for name, entry in _ENTRY.items()
    )
    query = f"""
        WITH last_n AS (
            SELECT customer_id, transaction_id, event_timestamp, amount_cents, terminal_risk
            FROM read_parquet($1) WHERE epoch_us(event_timestamp) < $2
            WINDOW newest AS (PARTITION BY customer_id ORDER BY event_timestamp DESC, transaction_id DESC)
            QUALIFY row_number() OVER newest <= $3
        )
        SELECT customer_id, max(event_timestamp) AS event_timestamp, {lists}
        FROM last_n GROUP BY customer_id ORDER BY customer_id
    """
    parameters = [[str(path) for path in transactions], as_of_us, history_length]
    return as_utc(connection.sql(query, params=parameters).to_arrow_table())


def terminal_states(day: Path, refresh: datetime) -> pa.Table:
    """Every terminal as of a refresh, by the `terminal_state` of its day, where a row holds until the terminal's next.

    terminal_id, event_timestamp (the refresh), TERMINAL_STATE_FIELDS; sorted by terminal, as the file is.
    """
    rows = pq.read_table(day, filters=[("event_timestamp", "<=", refresh)])
    names = rows["terminal_id"]
    newest = np.append(pc.not_equal(names[:-1], names[1:]), True)[: len(rows)]
    states = rows.filter(pa.array(newest))
    column = states.schema.get_field_index("event_timestamp")
    field = states.schema.field(column)
    return states.set_column(column, field, pa.repeat(pa.scalar(refresh, field.type), len(states)))
