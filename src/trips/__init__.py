"""How long a taxi trip will take: the second workload. What each module is, `millrace.workload` says.

A request arrives when a passenger gets in; how long the trip was is known when it ends. Nobody reviews anything.
"""

from typing import Final

TITLE: Final = "Duration of taxi trips"
TASK: Final = "regression"
MODEL_NAME: Final = "trip-duration"
EVENT: Final = ("trip", "trips")
