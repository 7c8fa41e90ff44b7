"""What figures, units and the label are called on the page and the model card of one workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True, slots=True)
class Words:
    """What things are called."""

    figures: Mapping[str, str]
    units: str
    label: str
    unit: str
    """Of the label, such as minutes."""

    @classmethod
    def of(cls, workload: Workload) -> Words:
        """The workload's own titles before those of the task."""
        label = workload.schema.LABEL
        named = NAMES | dict(workload.judging.TITLES)
        return cls(named, workload.judging.UNIT_NOUN[1], label.column.replace("_", " "), label.unit)

    def name(self, figure: str) -> str:
        """What a figure, or another model, is called."""
        return self.figures.get(figure, figure.replace("_", " "))

    def titled(self, figure: str) -> str:
        """The name of a figure with its unit."""
        return self.name(figure) if figure in SHARES or not self.unit else f"{self.name(figure)}, {self.unit}"
