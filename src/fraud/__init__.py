"""Online card-fraud scoring: the reference workload. What each module is, `millrace.workload` says."""

from typing import Final

TITLE: Final = "Online card-fraud scoring"
TASK: Final = "ranking"
MODEL_NAME: Final = "fraud-detector"
EVENT: Final = ("transaction", "transactions")
