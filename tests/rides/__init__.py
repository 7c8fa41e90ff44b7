"""A workload for tests of what comes before features: rides whose id and minutes are made from the row."""

from typing import Final

TITLE: Final = "Minutes of a ride"
TASK: Final = "regression"
MODEL_NAME: Final = "ride-minutes"
EVENT: Final = ("ride", "rides")
