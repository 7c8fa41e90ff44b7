"""Which features a drift detector judges, and how: the workload's knowledge behind `serving/drift_detector`.

Per-request features are fresh in every request, so a test finds small shifts of them. Aggregates move slowly and are
shared between requests: they are judged for large shifts only, as a broken feed makes. Ageing ones grow until their
window is full, and clock features only say when a window was taken: both are shown, never judged.
"""

from __future__ import annotations

from typing import Final

from fraud.features import CUSTOMER_FEATURES, FEATURE_NAMES, REQUEST_FEATURES, TERMINAL_FEATURES

HOUR_FEATURE: Final = "hour"
WEEKEND_FEATURE: Final = "is_weekend"
CLOCK_FEATURES: Final = tuple(name for name in REQUEST_FEATURES if name != "amount")
PER_REQUEST_FEATURES: Final = (
    "amount",
    "customer_amount_ratio",
    "customer_amount_zscore",
    "customer_days_since_last",
)
AGEING_FEATURES: Final = (
    "customer_count_30d",
    "customer_history_count",
    "customer_max_amount",
    "terminal_count_30d",
    "terminal_labelled_14d",
    "terminal_labelled_30d",
    "terminal_days_since_fraud",
    *(name for name in TERMINAL_FEATURES if "streak" in name),
)
AGGREGATE_FEATURES: Final = tuple(
    name
    for name in CUSTOMER_FEATURES + TERMINAL_FEATURES
    if name not in PER_REQUEST_FEATURES and name not in AGEING_FEATURES
)


def role_of(feature: str) -> str:
    """`per_request`, `aggregate` or `shown` (not judged)."""
    if feature in PER_REQUEST_FEATURES:
        return "per_request"
    return "aggregate" if feature in AGGREGATE_FEATURES else "shown"


ROLES: Final = {name: role_of(name) for name in FEATURE_NAMES}
