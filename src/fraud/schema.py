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

HINTS: Mapping[str, str] = {
    "transaction_id": r"((transaction|trans|tx|txn|payment|event|booking|buchungs)_?(id|no|nr|num|ref|uuid)|uuid)",
    "customer_id": r"((customer|card|account|client|user|payer|cardholder|konto)(_?(id|no|nr|num|number|nummer))?|"
    r"cc_num|name_orig|kontonummer|kartennummer|iban|pan|card1|from(_account)?)|.*(customer|card|account|user).*(id|no|number)",
    "terminal_id": r"((merchant|terminal|shop|store|pos|payee|seller|acceptor|laden)(_?(id|no|nr|num|number|name))?|"
    r"device(_id)?|name_dest|h_?ndler|haendler|händler|merchant_name|addr1|to(_account)?)",
    "amount": r"((transaction|tx|txn|trans)?_?(amount|amt)(_.*)?|value|betrag(_.*)?|eur|usd|gbp|price|importe|montant)",
    "is_fraud": r"((is_)?fraud(_?(flag|label|ind))?|class|chargeback|label|target|betrug(_.*)?|confirmed_fraud|"
    r"fraudulent)|status|.*fraud.*",
    "label_timestamp": r"((fraud_)?(reported|confirmed|chargeback|label)(_(at|on|date|time|timestamp))?)",
}
"""Field → pattern of the names that others give it, in lower case with `_`; its first group has the better ones."""

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
