"""What monitoring reads and puts up with, typed. `monitor.yaml` says what each setting is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from millrace.config import Config, load_config


class MonitorConfig(Config):
    """Shares are in [0, 1]."""

    window_days: int = Field(ge=8, le=400)
    resamples: int = Field(ge=20)
    estimate_draws: int = Field(ge=20)
    review_cost: float = Field(ge=0)
    min_answers: int = Field(ge=1)
    min_label_share: float = Field(gt=0, le=1)
    reference_days: int = Field(ge=1)
    mean_days_between_false_alarms: float = Field(gt=1)
    loss_tolerance: float = Field(ge=0)
    min_average_precision_kept: float = Field(ge=0, le=1)
    min_expected_precision_kept: float = Field(ge=0, le=1)
    max_calibration_error_growth: float = Field(ge=0, le=1)
    max_error_growth: float = Field(ge=1)
    max_coverage_drop: float = Field(ge=0, le=1)
    max_missing_feature_share: float = Field(ge=0, le=1)
    max_degraded_share: float = Field(ge=0, le=1)
    agreement_sample: int = Field(ge=1)
    agreement_tolerance: float = Field(gt=0)
    max_disagreement_share: float = Field(ge=0, le=1)

    @classmethod
    def load(cls, path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> MonitorConfig:
        """Reads `monitor.yaml` beside this file unless told otherwise; raises ConfigError naming what is wrong."""
        return load_config(cls, path or Path(__file__).with_name("monitor.yaml"), overrides)
