"""Named parts of the transactions in which a model must hold up by itself.

Rows and their features in, one mask per slice out; what is demanded of a slice is `components/evaluate`'s business.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud.features import FEATURE_NAMES

AMOUNT_EDGES: Final = (0.0, 10.0, 50.0, 100.0, 220.0)
"""Lower edges of the amount bands, currency units; 220 is the amount above which the recipe's first scenario begins."""
HOUR_BANDS: Final = {"night": (0, 7), "morning": (7, 12), "afternoon": (12, 18), "evening": (18, 24)}
NEW_CUSTOMER_HISTORY: Final = 10
"""A customer with fewer transactions than this is new."""
QUIET_QUANTILE: Final = 0.1
"""Terminals with no more transactions in 30 days than this share of the rows are quiet."""
SCENARIO_COLUMN: Final = "fraud_scenario"
"""Carried by simulated data: which pattern a fraud belongs to, 0 for none."""

Mask = NDArray[np.bool_]


def slice_masks(rows: pa.Table, features: NDArray[np.float32]) -> dict[str, Mask]:
    """Slice → mask[N] over rows[N] with `features[N, F]`. Slices overlap; one may be empty.

    A scenario's slice holds its frauds and all genuine rows; it exists where the rows carry `fraud_scenario`.
    """
    amount = _feature(features, "amount")
    hour = _feature(features, "hour")
    history = _feature(features, "customer_history_count")
    volume = _feature(features, "terminal_count_30d")
    quiet = volume <= (np.quantile(volume, QUIET_QUANTILE) if len(volume) else 0)

    masks = {
        **_amount_bands(amount),
        **{name: (hour >= first) & (hour < end) for name, (first, end) in HOUR_BANDS.items()},
        "weekend": _feature(features, "is_weekend") > 0,
        "new_customers": history < NEW_CUSTOMER_HISTORY,
        "known_customers": history >= NEW_CUSTOMER_HISTORY,
        "quiet_terminals": quiet,
        "busy_terminals": ~quiet,
    }
    return masks | _scenarios(rows)


def _amount_bands(amount: NDArray[np.float32]) -> dict[str, Mask]:
    bands = {}
    for low, high in zip(AMOUNT_EDGES, (*AMOUNT_EDGES[1:], np.inf), strict=True):
        name = f"amount_{low:.0f}_to_{high:.0f}" if np.isfinite(high) else f"amount_over_{low:.0f}"
        bands[name] = (amount > low) & (amount <= high) if low else amount <= high
    return bands


def _scenarios(rows: pa.Table) -> dict[str, Mask]:
    if SCENARIO_COLUMN not in rows.column_names:
        return {}
    scenario = rows[SCENARIO_COLUMN].cast(pa.int64()).fill_null(0).to_numpy()
    return {f"scenario_{number}": (scenario == number) | (scenario == 0) for number in np.unique(scenario) if number}


def _feature(features: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    return features[:, FEATURE_NAMES.index(name)]
