"""What the model reads: names and order, and the states behind them; the formulas are `formulas.py`'s.

A state is integers as of a refresh: how many trips ended in a window before it, and their seconds and metres. A trip
counts from the first refresh after its drop-off on, so nothing is known of a trip that is under way.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from millrace.fields import View

FEATURE_SERVICE: Final = "trip_duration_v1"
REFRESHES_PER_DAY: Final = 48
"""States are as of the full and the half hour, UTC."""
HISTORY_CHANNELS: Final = ()

WINDOWS: Final = {
    "city": {"30m": 1, "1h": 2, "3h": 6, "24h": 48, "7d": 7 * 48, "30d": 30 * 48},
    "pickup": {"3h": 6, "24h": 48, "7d": 7 * 48, "30d": 30 * 48},
    "dropoff": {"3h": 6, "24h": 48, "7d": 7 * 48, "30d": 30 * 48},
    "pair": {"7d": 7 * 48, "30d": 30 * 48},
}
"""Entity → windows of its state, with their lengths in refreshes."""
LONGEST: Final = "30d"
MEASURES: Final = ("seconds", "expected")
"""What each window tells: how long its trips took, and how long trips that far take (`formulas.expected_seconds`)."""
LONG_MEASURES: Final = ("trips", "metres")
"""What the longest window tells besides: how many trips they were, and how far they went."""


def columns(entity: str) -> dict[str, tuple[str, int]]:
    """Field of an entity's state → the measure that it sums, and over how many refreshes."""
    windows = WINDOWS[entity]
    short = {f"{entity}_{of}_{name}": (of, length) for name, length in windows.items() for of in MEASURES}
    return short | {f"{entity}_{of}_{LONGEST}": (of, windows[LONGEST]) for of in LONG_MEASURES}


VIEWS: Final = tuple(
    View(f"{entity}_state", entity, dict.fromkeys(columns(entity), pa.int64()), recent=False) for entity in WINDOWS
)

REQUEST_FEATURES: Final = ("trip_miles", "no_distance", "hour", "weekday", "is_weekend", "passengers", "no_passengers")
ZONE_FEATURES: Final = ("pickup_number", "dropoff_number", "pickup_borough", "dropoff_borough", "same_zone")
STATE_FEATURES: Final = (
    "city_pace_7d",
    *(f"city_pace_{window}" for window in ("24h", "3h", "1h", "30m")),
    *(f"{end}_pace_{window}" for end in ("pickup", "dropoff") for window in ("30d", "7d", "24h", "3h")),
    *(f"pair_pace_{window}" for window in ("30d", "7d")),
    "pair_miles",
    "pair_minutes",
    "distance_ratio",
    "expected_minutes",
    "estimated_minutes",
)
"""Paces are seconds over what the distance lets expect: 1.2 is a fifth slower. `city_pace_7d` is absolute; every other
one is relative: the city's to its week, a zone's and a pair's of thirty days to the city's, shorter ones to these."""
FEATURE_NAMES: Final = REQUEST_FEATURES + ZONE_FEATURES + STATE_FEATURES
