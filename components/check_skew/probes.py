"""The transactions that the paths are compared on: a seeded sample of the hour after `as_of`, one per customer.

Real ones are the first of their customer after `as_of`, since later ones need a state that has seen the first. The
others issue a customer's last transaction again, a little later; one is of a customer and a terminal unknown to all.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import duckdb
import pyarrow as pa

from fraud.features import DAY_US, REFRESHES_PER_DAY
from millrace.errors import InvalidInput
from millrace.instants import microseconds
from millrace.lake.manifest import Manifest

ACTIVE_DAYS: Final = 30
"""A customer's last transaction is issued again when it is not older than this."""
UNSEEN: Final = "nobody has seen this one"
"""Customer and terminal of the probe that no store knows."""


def draw(
    connection: duckdb.DuckDBPyConnection, feature_set: Manifest, as_of: datetime, size: int, seed: int
) -> pa.Table:
    """transaction_id, event_us, customer_id, terminal_id, amount_cents and kind; at most `size`, and the unseen one.

    Half are real where there are as many. All come before the next refresh of terminal states, for which those in the
    store are the latest. Raises InvalidInput when no customer was active in the ACTIVE_DAYS before.
    """
    files = feature_set.table("events", as_of.date() - timedelta(days=ACTIVE_DAYS), as_of.date())
    as_of_us = microseconds(as_of)
    every = DAY_US // REFRESHES_PER_DAY
    refresh = (as_of_us // every + 1) * every
    values = {
        "files": [str(path) for path in files],
        "seed": str(seed),
        "as_of": as_of_us,
        "refresh": refresh,
        "latest": refresh - 1,
        "size": size,
        "unseen": UNSEEN,
    }
    probes = connection.sql(_QUERY, params=values).to_arrow_table() if files else []
    if len(probes) < 2:
        raise InvalidInput(
            f"feature set {feature_set.id} has no customer active in the {ACTIVE_DAYS} days before {as_of}. "
            "Take an as_of inside the data."
        )
    return probes


_QUERY = """
    WITH recent AS (
        SELECT transaction_id, epoch_us(event_timestamp) AS event_us, customer_id, terminal_id, amount_cents,
            md5(customer_id || $seed) AS lot
        FROM read_parquet($files)
    ), real AS (
        SELECT *, 'real' AS kind FROM recent WHERE event_us >= $as_of AND event_us < $refresh
        QUALIFY row_number() OVER (PARTITION BY customer_id ORDER BY event_us, transaction_id) = 1
        ORDER BY lot LIMIT $size // 2
    ), last AS (
        SELECT * FROM recent WHERE event_us < $as_of AND customer_id NOT IN (SELECT customer_id FROM real)
        QUALIFY row_number() OVER (PARTITION BY customer_id ORDER BY event_us DESC, transaction_id DESC) = 1
        ORDER BY lot LIMIT $size - (SELECT count(*) FROM real)
    ), reissued AS (
        SELECT (SELECT max(transaction_id) FROM recent) + row_number() OVER (ORDER BY lot) AS transaction_id,
            $as_of + ('0x' || lot[:12])::BIGINT % ($latest - $as_of + 1) AS event_us,
            customer_id, terminal_id, amount_cents, lot, 'reissued' AS kind
        FROM last
    ), unseen AS (
        SELECT (SELECT min(transaction_id) FROM recent) - 1 AS transaction_id, $as_of AS event_us,
            $unseen AS customer_id, $unseen AS terminal_id, 1234 AS amount_cents, '' AS lot, 'unseen' AS kind
    )
    SELECT * EXCLUDE lot FROM (SELECT * FROM real UNION ALL SELECT * FROM reissued UNION ALL SELECT * FROM unseen)
    ORDER BY transaction_id
"""
