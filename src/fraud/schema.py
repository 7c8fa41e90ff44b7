"""The raw schema: names, kinds, order and aliases of a transaction. Schema version 1."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from millrace.fields import Entity, Field, Kind, Label, events_of

VERSION = 1
EVENT_ID = "transaction_id"
FIELDS: tuple[Field, ...] = (
    Field(name="transaction_id", kind=Kind.ID),
    Field(name="event_timestamp", kind=Kind.INSTANT),
    Field(name="customer_id", kind=Kind.KEY),  # pseudonym: 16 hex digits, never the raw id
    Field(name="terminal_id", kind=Kind.KEY),
    Field(name="amount", kind=Kind.MONEY, unit="currency units", minimum=0),
    Field(name="is_fraud", kind=Kind.CLASS, empty=True),
    Field(name="label_timestamp", kind=Kind.INSTANT, empty=True, optional=True),
)
EVENTS = events_of(FIELDS)

ALIASES: Mapping[str, str] = {
    "TRANSACTION_ID": "transaction_id",
    "TX_DATETIME": "event_timestamp",
    "CUSTOMER_ID": "customer_id",
    "TERMINAL_ID": "terminal_id",
    "TX_AMOUNT": "amount",
    "TX_FRAUD": "is_fraud",
    "TX_FRAUD_SCENARIO": "fraud_scenario",
}
"""Public names of the published data set → ours."""

CARRIED_TYPES: Mapping[str, pa.DataType] = {"fraud_scenario": pa.int8()}
"""Carried columns with one name and type whatever the source; evaluation slices by them, no feature reads them."""

LABEL_DELAY_DAYS = 7
"""Default time from a transaction until its label is known, in days."""

RULES: Mapping[str, str] = {}
EDGE_SHARE = 0.0
ENTITIES: tuple[Entity, ...] = (
    Entity("customer", "customer_id", pseudonymised=True),
    Entity("terminal", "terminal_id"),
)
LABEL = Label("is_fraud", unit="", delay_days=LABEL_DELAY_DAYS)
