"""What a request says of a trip beside its id, its time and its zones, and what the answer's figures are called."""

from __future__ import annotations

from typing import Final

ASKED: Final = ("passenger_count", "trip_distance")
ANSWER: Final = {"score": "minutes", "low": "minutes_low", "high": "minutes_high"}
EXAMPLE: Final = {"pickup_zone": "74", "dropoff_zone": "166", "passenger_count": 1, "trip_distance": 1.3}
