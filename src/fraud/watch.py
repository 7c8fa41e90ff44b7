"""What is kept of a prediction, and which features a drift detector judges, and how.

Per-request features are fresh in every request, so a test finds small shifts of them. Aggregates move slowly and are
shared between requests: they are judged for large shifts only, as a broken feed makes. Ageing ones grow until their
window is full, and clock features only say when a window was taken: both are shown, never judged.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from fraud.features import CUSTOMER_FEATURES, TERMINAL_FEATURES
from millrace.fields import Kept

FIELDS: Final = {"amount": Kept(pa.float64(), least=0)}
FEED: Final = "terminal"

HOUR: Final = "hour"
WEEKEND: Final = "is_weekend"
PER_REQUEST: Final = (
    "amount",
    "customer_amount_ratio",
    "customer_amount_zscore",
    "customer_days_since_last",
)
AGEING: Final = (
    "customer_count_30d",
    "customer_history_count",
    "customer_max_amount",
    "terminal_count_30d",
    "terminal_labelled_14d",
    "terminal_labelled_30d",
    "terminal_days_since_fraud",
    *(name for name in TERMINAL_FEATURES if "streak" in name),
)
AGGREGATE: Final = tuple(
    name for name in CUSTOMER_FEATURES + TERMINAL_FEATURES if name not in PER_REQUEST and name not in AGEING
)
