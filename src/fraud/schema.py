"""The raw schema: names, types, order and aliases of a transaction. Schema version 1.

Rules about values (ranges, required, unique) are checked by `components/ingest`; this is only what the columns are.
"""

from __future__ import annotations

import pyarrow as pa

from millrace.workload import Entity, Label

SCHEMA_VERSION = 1

TRANSACTION_SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.int64(), nullable=False),
        pa.field("event_timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("customer_id", pa.string(), nullable=False),  # pseudonym: 16 hex digits, never the raw id
        pa.field("terminal_id", pa.string(), nullable=False),
        pa.field("amount", pa.decimal128(12, 2), nullable=False),
        pa.field("is_fraud", pa.int8()),  # null while the label is not known
        pa.field("label_timestamp", pa.timestamp("us", tz="UTC")),  # when the label became known; null with is_fraud
    ]
)
"""Columns of a snapshot, in order. Further columns of the source follow these, unchanged."""

REQUIRED = ("transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount", "is_fraud")
"""Columns a source must have, under these names or an alias. `is_fraud` may be empty in any row."""

ALIASES = {
    "TRANSACTION_ID": "transaction_id",
    "TX_DATETIME": "event_timestamp",
    "CUSTOMER_ID": "customer_id",
    "TERMINAL_ID": "terminal_id",
    "TX_AMOUNT": "amount",
    "TX_FRAUD": "is_fraud",
    "TX_FRAUD_SCENARIO": "fraud_scenario",
}
"""Public names of the published data set → ours."""

CARRIED_TYPES = {"fraud_scenario": pa.int8()}
"""Carried columns with one name and type whatever the source; evaluation slices by them, no feature reads them."""

LABEL_DELAY_DAYS = 7
"""Default time from a transaction until its label is known, in days."""

EVENTS = TRANSACTION_SCHEMA
VERSION = SCHEMA_VERSION
EVENT_ID = "transaction_id"
ENTITIES = (Entity("customer", "customer_id", pseudonymised=True), Entity("terminal", "terminal_id"))
LABEL = Label("is_fraud", unit="", delay_days=LABEL_DELAY_DAYS)
