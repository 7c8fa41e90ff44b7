"""How fraud detection is judged: cards are the units, and a missed fraud costs its amount."""

from __future__ import annotations

from typing import Final

from millrace.judge.rows import Columns

UNIT: Final = "customer"
UNIT_NOUN: Final = ("card", "cards")
POSITIVE_NOUN: Final = ("fraud", "frauds")
COLUMNS: Final = Columns(
    unit="customer_id", label="is_fraud", value="amount_cents", value_scale=100, known_days=14
)  # 7 days of training and 7 of label delay, as in the published protocol
LOG_COLUMNS: Final = Columns(unit="customer_id", label="is_fraud", value="amount")
