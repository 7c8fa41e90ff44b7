"""How predictions of minutes are judged: by pickup zone, borough, hour and distance, and on bad days (`whatif.py`).

What is demanded stands in `evaluate.yaml`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.judge.rows import Columns
from trips.features import FEATURE_NAMES
from trips.whatif import STRESSES
from trips.whatif import inputs_of as what_if
from trips.zones import BOROUGHS, borough_of

__all__ = ["STRESSES", "slices", "what_if"]

UNIT: Final = "pickup"
UNIT_NOUN: Final = ("zone", "zones")
COLUMNS: Final = Columns(unit="pickup_zone", label="duration_min")
LOG_COLUMNS: Final = COLUMNS
LIMITS: Final = Path(__file__).with_name("evaluate.yaml")
TITLES: Final = {"pair_mean": "mean of the pair of zones"}
PURPOSE: Final = """\
Telling a passenger who gets into a taxi how many minutes the trip will take, with a range that holds four of five
trips. It reads the feature service `{service}`: the request, and how fast trips were that ended before it."""
CAVEATS: Final = (
    "Distance is what the meter shows at the end; a request has to bring the planned one.",
    "Trips under a minute and over an hour are not learned from, so no answer is far beyond an hour.",
    "Jams are seen when trips through them have ended, half an hour late or more.",
)

HOURS: Final = {"night": (0, 6), "morning": (6, 10), "midday": (10, 15), "evening": (15, 20), "late": (20, 24)}
"""Time of day → its first hour, and the first after it."""
MILES: Final = {"under_1": (0, 1), "1_to_3": (1, 3), "3_to_10": (3, 10), "over_10": (10, np.inf)}
SHRINK_TRIPS: Final = 3
"""A pair's mean is drawn towards that of all trips as if it had so many more."""


def slices(rows: pa.Table, features: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
    """Slice → mask[N]: borough of the pickup, time of day, distance, and whether passengers were counted."""
    zones = rows["pickup_zone"].combine_chunks().dictionary_encode()
    borough = np.array([borough_of(zone) for zone in zones.dictionary.to_pylist()], np.int64)[zones.indices.to_numpy()]
    hour, miles, uncounted = (features[:, FEATURE_NAMES.index(n)] for n in ("hour", "trip_miles", "no_passengers"))

    return {
        **{f"borough_{name.lower().replace(' ', '_')}": borough == place for place, name in enumerate(BOROUGHS)},
        **{f"hour_{name}": (hour >= first) & (hour < end) for name, (first, end) in HOURS.items()},
        **{f"miles_{name}": (miles >= least) & (miles < most) for name, (least, most) in MILES.items()},
        "passengers_counted": uncounted == 0,
        "passengers_not_counted": uncounted == 1,
    }


def pair_mean(data: Any, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """[B] the mean of the pair of zones over the training rows, drawn towards that of all."""
    train = data.rows_of("train")
    ends = data.table(["pickup_zone", "dropoff_zone"])
    pickup, dropoff = (ends[name].combine_chunks().dictionary_encode() for name in ends.column_names)
    pair = pickup.indices.to_numpy().astype(np.int64) * len(dropoff.dictionary) + dropoff.indices.to_numpy()
    _, code = np.unique(pair, return_inverse=True)

    label = data.label[train].astype(np.float64)
    minutes = np.bincount(code[train], label, code.max() + 1) + SHRINK_TRIPS * label.mean()
    means: NDArray[np.float64] = minutes / (np.bincount(code[train], minlength=code.max() + 1) + SHRINK_TRIPS)
    return means[code[rows]]


BASELINES: Final = {"pair_mean": pair_mean}
