"""A workload for tests: how many hours a machine runs until it is serviced. Regression, no history, nobody to ask."""

from typing import Final

TITLE: Final = "Hours until service"
TASK: Final = "regression"
MODEL_NAME: Final = "machine-hours"
EVENT: Final = ("reading", "readings")
