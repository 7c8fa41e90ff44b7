"""What the label and the figures of a quantity are called on the page and the model card of one workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from components.evaluate import words
from millrace.installed import Workload

NAMES: Final = {
    "mae": "MAE",
    "rmse": "RMSE",
    "bias": "bias",
    "median_error": "median error",
    "p90_error": "error that nine of ten stay below",
    "coverage": "coverage of the interval",
    "interval_width": "mean width of the interval",
    "constant": "the median",
    "linear": "linear model",
    "xgboost": "XGBoost, tuned",
}
SHARES: Final = frozenset({"coverage"})
"""Figures without a unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words(words.Words):
    """What things are called where a quantity is predicted."""

    label: str
    unit: str
    """The label's unit, such as minutes; empty where it has none."""

    @classmethod
    def of(cls, workload: Workload) -> Words:
        """The workload's own titles before those of the task."""
        label = workload.schema.LABEL
        return cls(
            figures=NAMES | dict(workload.judging.TITLES),
            units=workload.judging.UNIT_NOUN[1],
            window="test window",
            label=words.spaced(label.column),
            unit=label.unit,
        )

    def titled(self, figure: str) -> str:
        """The name of a figure with its unit."""
        name = self.name(figure)
        return name if figure in SHARES else self.measured(name)

    def measured(self, what: str) -> str:
        """The name of something that is counted in the label's unit, with that unit."""
        return f"{what}, {self.unit}" if self.unit else what
