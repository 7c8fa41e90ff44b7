"""What the evaluation gate demands, typed, by task. The workload's `LIMITS` file says what each setting is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic import Field

from millrace.config import Config, load_config
from millrace.errors import InvalidInput
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
    """Demands on a model of classes. Shares and floors are in [0, 1]; losses are at least 0, in average precision."""

    min_test_positives: int = Field(ge=1)
    min_auc_roc: float = Field(ge=0, le=1)
    min_average_precision: float = Field(ge=0, le=1)
    max_calibration_error: float = Field(ge=0, le=1)
    min_brier_skill: float = Field(le=1)
    min_gain_over_logistic_regression: float = Field(ge=-1, le=1)
    max_loss_to_xgboost: float = Field(ge=0, le=1)
    min_gain_over: dict[str, float] = Field(default_factory=dict)
    """Least gain over each of the workload's own baselines, by its name."""
    max_loss_to_champion: float = Field(ge=0, le=1)
    min_slice_positives: int = Field(ge=1)
    min_slice_negatives: int = Field(ge=1)
    slice_auc_floor: float = Field(ge=0, le=1)
    slice_auc_floors: dict[str, float]
    stress_floors: dict[str, float]


class RankingLimits(ClassLimits):
    """Demands on a ranking of a rare class, of which so many units are reviewed a day."""

    review_cost: float = Field(ge=0)
    min_unit_precision: float = Field(ge=0, le=1)
    min_unit_precision_share: float = Field(ge=0, le=1)
    max_cost_ratio: float = Field(ge=0)
    min_threshold_precision: float = Field(ge=0, le=1)
    min_threshold_recall: float = Field(ge=0, le=1)
    max_flagged_units_ratio: float = Field(gt=0)
    max_unit_precision_loss_to_champion: float = Field(ge=0, le=1)
    attack_ceilings: dict[str, float]


class QuantityLimits(EvaluateConfig):
    """Demands on a model of a quantity. Gains and losses are shares of the other's MAE, errors in the label's unit."""

    min_test_rows: int = Field(ge=1)
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
    stress_ceilings: dict[str, float]


Limits: TypeAlias = RankingLimits | ClassLimits | QuantityLimits
KINDS: dict[Task, type[Limits]] = {
    Task.RANKING: RankingLimits,
    Task.CLASSIFICATION: ClassLimits,
    Task.REGRESSION: QuantityLimits,
}


def load_limits(workload: Workload, overrides: Mapping[str, Any] | None = None) -> Limits:
    """The workload's limits; raises ConfigError naming file, key and what was wanted."""
    return load_config(KINDS[workload.task], workload.judging.LIMITS, overrides)


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
