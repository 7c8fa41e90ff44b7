"""`batch` of this workload: what a feature set stores of a transaction, and the code that computes whole days.

The windows over a whole stream are computed in `days.py`; how Spark divides them stands in `shards.py`; what a
feature means, and the formulas that both paths share, in `formulas.py`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud import formulas, shards
from fraud.days import daily, events
from fraud.schema import EVENTS
from millrace.features.histories import Histories

__all__ = ["COLUMNS", "RELEVANT", "SHARDS", "SMALL_STEPS", "daily", "events", "history"]

COLUMNS: Final = pa.schema(
    [
        *(EVENTS.field(name) for name in ("transaction_id", "event_timestamp", "customer_id", "terminal_id")),
        pa.field("amount_cents", pa.int64(), nullable=False),
        *(EVENTS.field(name) for name in ("is_fraud", "label_timestamp")),
        pa.field("terminal_risk", pa.float32(), nullable=False),
    ]
)
"""Amounts are stored as cents; `terminal_risk` is what a customer's history remembers of a transaction."""
SMALL_STEPS: Final = frozenset(
    name for name in formulas.TERMINAL_STATE_FIELDS if name.startswith(("count_", "labelled_"))
)
RELEVANT: Final = """
    terminal_id IN (SELECT terminal_id FROM probes)
    OR customer_id IN (
        SELECT customer_id FROM probes UNION
        SELECT customer_id FROM past WHERE is_fraud = 1 AND terminal_id IN (SELECT terminal_id FROM probes)
    )
"""
"""Customers whose frauds happened at these terminals are among them: a fraud's amount is held against what is usual
for its customer."""
SHARDS: Final = shards.SHARDS


def history(now_us: NDArray[np.int64], past: Histories, length: int) -> NDArray[np.float32]:
    """[B] times and the histories before them → history[B, length, C], see HISTORY_CHANNELS."""
    return formulas.history_tensor(now_us, formulas.states_of(past), length)
