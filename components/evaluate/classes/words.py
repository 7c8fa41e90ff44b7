"""What figures, units and positives are called on the page and the model card of one workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from millrace.installed import Workload
from millrace.workload import Task

NAMES: Final = {
    "auc_roc": "AUC ROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "brier_skill": "Brier skill",
    "calibration_error": "calibration error",
    "cost_ratio": "cost over doing nothing",
    "logistic_regression": "logistic regression",
    "xgboost": "XGBoost, tuned",
}


@dataclass(frozen=True, slots=True)
class Words:
    """What things are called ."""

    figures: Mapping[str, str]
    units: str
    positive: str
    positives: str
    negative: str
    marked: str
    attack_story: str

    @classmethod
    def of(cls, workload: Workload, k: int | None) -> Words:
        """The workload's own where it ranks a rare class; plain ones for two classes of which neither is rare."""
        judging = workload.judging
        figures = NAMES | {name: title.format(k=k) for name, title in judging.TITLES.items()}
        units = judging.UNIT_NOUN[1]
        if workload.task is not Task.RANKING:
            return cls(figures, units, "positive", "positives", "negative", "positive", "")
        ranked = workload.ranked
        one, many = ranked.POSITIVE_NOUN
        return cls(figures, units, one, many, ranked.NEGATIVE, ranked.MARKED, ranked.ATTACK_STORY)

    def name(self, figure: str) -> str:
        """What a figure, or another model, is called."""
        return self.figures.get(figure, figure.replace("_", " "))
