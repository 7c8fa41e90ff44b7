"""What positives and the figures of classes are called on the page and the model card of one workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from components.evaluate import words
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Words(words.Words):
    """What things are called where classes are told apart: plain words, unless a rare class is ranked."""

    positive: str = "positive"
    positives: str = "positives"
    negative: str = "negative"
    marked: str = "positive"
    """What a unit with positives is said to be."""
    attack_story: str = ""

    @classmethod
    def of(cls, workload: Workload, k: int | None) -> Words:
        """The workload's own words; `k` units are reviewed a day, where that is done."""
        judging = workload.judging
        figures = NAMES | {name: title.format(k=k) for name, title in judging.TITLES.items()}
        units = judging.UNIT_NOUN[1]
        if workload.task is not Task.RANKING:
            return cls(figures=figures, units=units, window="test week")

        ranked = workload.ranked
        positive, positives = ranked.POSITIVE_NOUN
        return cls(
            figures=figures,
            units=units,
            window="test week",
            positive=positive,
            positives=positives,
            negative=ranked.NEGATIVE,
            marked=ranked.MARKED,
            attack_story=ranked.ATTACK_STORY,
        )
