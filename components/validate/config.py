"""The limits of the data gate, typed. `validate.yaml` says what each one is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from millrace.config import Config, load_config


class ValidateConfig(Config):
    """Shares are in [0, 1], ratios at least 1."""

    reference_days: int = Field(ge=1)
    current_days: int = Field(ge=1)
    min_days: int = Field(ge=2)
    max_missing_days: int = Field(ge=0)
    max_rows_lost_share: float = Field(ge=0, le=1)
    day_rows_sigmas: float = Field(gt=0)
    day_rows_min_tolerance: float = Field(ge=0, le=1)
    day_rows_max_tolerance: float = Field(ge=0, lt=1)
    max_null_share_rise: float = Field(ge=0, le=1)
    label_wait_days: int = Field(ge=0)
    max_unlabelled_share: float = Field(ge=0, le=1)
    max_amount_ratio: float = Field(ge=1)
    max_median_ratio: float = Field(ge=1)
    max_amount_ks: float = Field(ge=0, le=1)
    max_time_of_day_ks: float = Field(ge=0, le=1)
    max_new_customer_row_share: float = Field(ge=0, le=1)
    max_new_terminal_row_share: float = Field(ge=0, le=1)
    max_silent_customer_share: float = Field(ge=0, le=1)
    max_silent_terminal_share: float = Field(ge=0, le=1)
    max_fraud_share_ratio: float = Field(ge=1)
    max_quarantined_share: float = Field(ge=0, le=1)

    @classmethod
    def load(cls, path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> ValidateConfig:
        """From `validate.yaml` beside this file unless told otherwise; raises ConfigError naming what is wrong."""
        return load_config(cls, path or Path(__file__).with_name("validate.yaml"), overrides)
