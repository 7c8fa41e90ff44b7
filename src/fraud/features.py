"""What the model reads: names, versions and order; the formulas behind them are `formulas.py`'s.

The batch path over whole days is `days.py`, the single-row path `online.py`.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from fraud.formulas import (
    CUSTOMER_STATE_FIELDS,
    CUSTOMER_WINDOWS_DAYS,
    TERMINAL_LABEL_WINDOWS_DAYS,
    TERMINAL_STATE_FIELDS,
    TERMINAL_VOLUME_WINDOWS_DAYS,
)
from millrace.fields import View

FEATURE_SERVICE: Final = "fraud_detection_v2"
"""Name and version of the Feast feature service; a change of meaning below is a new version."""

REFRESHES_PER_DAY: Final = 24
"""Terminal states are as of the full hour, UTC. A label that comes back in the morning is seen within the hour;
waiting for midnight costs .02 of average precision, for the next quarter of the day .003 (docs/model.md)."""

REQUEST_FEATURES: Final = ("amount", "hour", "is_weekend", "is_night")
CUSTOMER_FEATURES: Final = (
    *(f"customer_count_{days}d" for days in CUSTOMER_WINDOWS_DAYS),
    *(f"customer_mean_amount_{days}d" for days in CUSTOMER_WINDOWS_DAYS),
    "customer_history_count",
    "customer_mean_amount",
    "customer_std_amount",
    "customer_max_amount",
    "customer_amount_ratio",
    "customer_amount_zscore",
    "customer_days_since_last",
)
TERMINAL_FEATURES: Final = (
    *(f"terminal_count_{days}d" for days in TERMINAL_VOLUME_WINDOWS_DAYS),
    *(f"terminal_labelled_{days}d" for days in TERMINAL_LABEL_WINDOWS_DAYS),
    *(f"terminal_risk_{days}d" for days in TERMINAL_LABEL_WINDOWS_DAYS),
    "terminal_fraud_streak",
    "terminal_days_since_streak_start",
    "terminal_days_since_fraud",
    "terminal_dates_since_streak_start",
    "terminal_streak_least_ratio",
)
FEATURE_NAMES: Final = REQUEST_FEATURES + CUSTOMER_FEATURES + TERMINAL_FEATURES
"""The F scalar model inputs, in the order of the tensor `features[B, F]`."""

HISTORY_CHANNELS: Final = ("amount", "age_days", "terminal_risk", "present")
"""The C channels of the tensor `history[B, L, C]`; the newest transaction is last, padding (all zero) comes first."""

VIEWS: Final = (
    View(
        "customer_state",
        "customer",
        {name: pa.list_(pa.float32() if name == "terminal_risk" else pa.int64()) for name in CUSTOMER_STATE_FIELDS},
        recent=True,
    ),
    View(
        "terminal_state",
        "terminal",
        dict.fromkeys(TERMINAL_STATE_FIELDS, pa.int64()),
        recent=False,
        same_day=False,
    ),
)
