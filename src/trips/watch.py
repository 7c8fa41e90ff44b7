"""What is kept of a prediction, and which features a drift detector judges, and how.

Features of the request are fresh each time, so a test finds small shifts of them. Paces of hours and days move as the
city does, and requests share them: they are judged for large shifts. What says when or where a trip begins is shown.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from millrace.fields import Kept
from trips.features import STATE_FEATURES

FIELDS: Final = dict.fromkeys(("passenger_count", "trip_distance"), Kept(pa.float64(), least=0))
FEED: Final = "pickup"

HOUR: Final = "hour"
WEEKEND: Final = "is_weekend"
PER_REQUEST: Final = ("trip_miles", "no_passengers", "distance_ratio", "expected_minutes")
AGGREGATE: Final = tuple(name for name in STATE_FEATURES if name not in PER_REQUEST)
