"""What the evaluation gate demands, typed, by task. The files in `limits` say what each setting is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic import Field

from millrace.config import Config, load_config, read_layer
from millrace.errors import ConfigError, InvalidInput
from millrace.installed import Workload
from millrace.workload import Task


class BaselineParameters(Config):
    """One point of XGBoost's grid."""

    n_estimators: int = Field(ge=1)
    max_depth: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class EvaluateConfig(Config):
    """How a model of any task is measured, and how fast an answer must be."""

    resamples: int = Field(ge=20)
    stress_rows: int = Field(ge=100)
    latency_calls: int = Field(ge=20)
    baseline_max_bin: int = Field(ge=2)
    baseline_grid: tuple[BaselineParameters, ...] = Field(min_length=1)
    max_latency_p50_ms: float = Field(gt=0)
    max_latency_p99_ms: float = Field(gt=0)


class ClassLimits(EvaluateConfig):
    """Demands on a model of classes, each of which may be left open (null): then there is no such rule.

    Floors, ceilings and losses of figures are absolute: the user's, or a profile's. Lifts, shares and losses to others
    are relative, and fit any data.
    """

    min_test_positives: int = Field(ge=1)
    max_feature_skill: float | None = Field(ge=0, le=1)
    """How far one feature alone may tell the label: 2 AUC - 1."""

    min_auc_roc: float | None = Field(ge=0, le=1)
    min_auc_roc_low: float | None = Field(ge=0, le=1)
    """Of the interval's low end."""
    min_average_precision: float | None = Field(ge=0, le=1)
    min_average_precision_lift: float | None = Field(ge=0)
    """Of the interval's low end, over the share of positives, which is what guessing reaches."""
    max_calibration_error: float | None = Field(ge=0, le=1)
    max_calibration_error_ratio: float | None = Field(ge=0)
    """Over the mean error of always answering the share of positives."""
    min_brier_skill: float | None = Field(le=1)
    min_brier_skill_high: float | None = Field(le=1)
    """Of the interval's high end."""

    min_gain_over_logistic_regression: float | None = Field(ge=-1, le=1)
    max_loss_to_xgboost: float | None = Field(ge=0, le=1)
    """In average precision."""
    min_share_of_logistic_regression: float | None = Field(ge=0)
    """Of the average precision above guessing that logistic regression reaches; at the high end of the gain over it."""
    min_share_of_xgboost: float | None = Field(ge=0)
    """The same of XGBoost."""
    min_gain_over: dict[str, float] = Field(default_factory=dict)
    """Least gain over each of the workload's own baselines, by its name."""
    max_loss_to_champion: float = Field(ge=0, le=1)

    min_slice_positives: int = Field(ge=1)
    min_slice_negatives: int = Field(ge=1)
    slice_auc_floor: float | None = Field(ge=0, le=1)
    slice_auc_floors: dict[str, float]
    max_slice_auc_loss: float | None = Field(ge=0, le=1)
    """XGBoost's AUC in a slice less the model's, at the interval's low end."""

    stress_floors: dict[str, float] | None
    max_stress_loss: float | None = Field(ge=0)
    """What XGBoost has left under a stress and the model has not, over what a good day has; at the low end."""


class RankingLimits(ClassLimits):
    """Demands on a ranking of a rare class, of which so many units are reviewed a day."""

    review_cost: float = Field(ge=0)
    max_review_share: float | None = Field(gt=0, le=1)
    """At most this part of a day's units is taken to be reviewed, however large the review capacity is."""
    min_unit_precision: float | None = Field(ge=0, le=1)
    min_unit_precision_share: float | None = Field(ge=0, le=1)
    min_unit_precision_lift: float | None = Field(ge=0)
    """Over what reviewing units at random reaches."""
    max_cost_ratio: float | None = Field(ge=0)
    min_threshold_precision: float | None = Field(ge=0, le=1)
    min_threshold_recall: float | None = Field(ge=0, le=1)
    min_threshold_lift: float | None = Field(ge=0)
    """Precision at the threshold over the share of positives."""
    max_flagged_units_ratio: float | None = Field(gt=0)
    max_unit_precision_loss_to_champion: float = Field(ge=0, le=1)
    attack_ceilings: dict[str, float] | None
    max_attack_loss: float | None = Field(ge=0)
    """Share of the money that an attack gains, less what it gains against XGBoost, at the interval's low end."""


class QuantityLimits(EvaluateConfig):
    """Demands on a model of a quantity. Gains and losses are shares of the other's MAE, errors in the label's unit.

    A limit that is null is no rule.
    """

    min_test_rows: int = Field(ge=1)
    max_feature_skill: float | None = Field(ge=0, le=1)
    """How far one feature alone may tell the label: the size of its rank correlation."""
    max_mae: float | None = Field(gt=0)
    max_rmse: float | None = Field(gt=0)
    max_bias_share: float = Field(gt=0)
    min_coverage: float = Field(ge=0, le=1)
    max_coverage: float = Field(ge=0, le=1)
    max_interval_width_share: float = Field(gt=0)
    min_gain_over: dict[str, float]
    max_loss_to_xgboost: float = Field(ge=0)
    max_loss_to_champion: float = Field(ge=0)
    min_slice_rows: int = Field(ge=1)
    slice_mae_ceiling: float = Field(gt=0)
    slice_mae_ceilings: dict[str, float]
    stress_ceilings: dict[str, float] | None
    max_stress_growth_over_xgboost: float | None = Field(gt=0)
    """How much more the MAE may grow under a stress than XGBoost's does."""


Limits: TypeAlias = RankingLimits | ClassLimits | QuantityLimits
KINDS: dict[Task, type[Limits]] = {
    Task.RANKING: RankingLimits,
    Task.CLASSIFICATION: ClassLimits,
    Task.REGRESSION: QuantityLimits,
}


FILES: Final[dict[Task, str]] = {
    Task.RANKING: "ranking.yaml",
    Task.CLASSIFICATION: "classification.yaml",
    Task.REGRESSION: "regression.yaml",
}
"""Limits that fit any data of the task; what they mean stands beside each."""


def load_limits(workload: Workload, overrides: Mapping[str, Any] | None = None, *, profile: str = "") -> Limits:
    """Those of the task, then the workload's own, then those of a profile, then `overrides`: the later ones win.

    Raises ConfigError naming file, key and what was wanted.
    """
    shared = Path(__file__).parent / "limits" / FILES[workload.task]
    own = read_layer(workload.judging.LIMITS)
    known = KINDS[workload.task].model_fields
    chosen = {**workload.profile(profile).get("evaluate", {})}
    if unknown := sorted(set(own) - set(known)):
        raise ConfigError(f"{workload.judging.LIMITS}: unknown {', '.join(unknown)}; wanted some of {sorted(known)}")
    more = workload.more_limits  # of what is given for each stress by name, or not at all
    asked = any(layer.get(part) for layer in (own, chosen, overrides or {}) for part in more)
    return load_config(KINDS[workload.task], shared, own, chosen, more if asked else {}, overrides)


def class_limits(limits: Limits) -> ClassLimits:
    """Raises InvalidInput for those of a quantity."""
    if not isinstance(limits, ClassLimits):
        raise InvalidInput(f"{type(limits).__name__} are limits of a quantity; this workload has classes")
    return limits


def quantity_limits(limits: Limits) -> QuantityLimits:
    """Raises InvalidInput for those of classes."""
    if not isinstance(limits, QuantityLimits):
        raise InvalidInput(f"{type(limits).__name__} are limits of classes; this workload has a quantity")
    return limits
