"""What the evaluation gate demands, typed. `evaluate.yaml` says what each setting is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from millrace.config import Config, load_config


class BaselineParameters(Config):
    """One point of XGBoost's grid."""

    n_estimators: int = Field(ge=1)
    max_depth: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class EvaluateConfig(Config):
    """Precisions, recalls, shares and floors are in [0, 1]; losses at least 0."""

    resamples: int = Field(ge=20)
    review_cost: float = Field(ge=0)
    stress_rows: int = Field(ge=100)
    latency_calls: int = Field(ge=20)
    baseline_max_bin: int = Field(ge=2)
    baseline_grid: tuple[BaselineParameters, ...] = Field(min_length=1)
    min_test_positives: int = Field(ge=1)
    min_auc_roc: float = Field(ge=0, le=1)
    min_average_precision: float = Field(ge=0, le=1)
    min_unit_precision: float = Field(ge=0, le=1)
    min_unit_precision_share: float = Field(ge=0, le=1)
    max_calibration_error: float = Field(ge=0, le=1)
    min_brier_skill: float = Field(le=1)
    max_cost_ratio: float = Field(ge=0)
    min_threshold_precision: float = Field(ge=0, le=1)
    min_threshold_recall: float = Field(ge=0, le=1)
    max_flagged_units_ratio: float = Field(gt=0)
    min_gain_over_logistic_regression: float = Field(ge=-1, le=1)
    max_loss_to_xgboost: float = Field(ge=0, le=1)
    max_loss_to_champion: float = Field(ge=0, le=1)
    max_unit_precision_loss_to_champion: float = Field(ge=0, le=1)
    min_slice_positives: int = Field(ge=1)
    min_slice_negatives: int = Field(ge=1)
    slice_auc_floor: float = Field(ge=0, le=1)
    slice_auc_floors: dict[str, float]
    stress_floors: dict[str, float]
    attack_ceilings: dict[str, float]
    max_latency_p50_ms: float = Field(gt=0)
    max_latency_p99_ms: float = Field(gt=0)

    @classmethod
    def load(cls, path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> EvaluateConfig:
        """From `evaluate.yaml` beside this file unless told otherwise; raises ConfigError naming what is wrong."""
        return load_config(cls, path or Path(__file__).with_name("evaluate.yaml"), overrides)
