"""The limits of the data gate, typed. `validate.yaml` says what each one is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from millrace.config import Config, load_config
from millrace.errors import ConfigError
from millrace.installed import Workload


class EntityLimits(Config):
    """Limits of one entity, where they are not those of all."""

    max_new_row_share: float | None = Field(default=None, ge=0, le=1)
    max_silent_share: float | None = Field(default=None, ge=0, le=1)


class ValidateConfig(Config):
    """Shares are in [0, 1], ratios at least 1."""

    reference_days: int = Field(ge=1)
    current_days: int = Field(ge=1)
    min_days: int = Field(ge=2)
    max_missing_days: int = Field(ge=0)
    max_missing_share: float | None = Field(ge=0, le=1)
    max_rows_lost_share: float = Field(ge=0, le=1)
    day_rows_sigmas: float = Field(gt=0)
    day_rows_min_tolerance: float = Field(ge=0, le=1)
    day_rows_max_tolerance: float = Field(ge=0, lt=1)
    day_rows_max_rise: float | None = Field(ge=0)
    max_null_share_rise: float = Field(ge=0, le=1)
    label_wait_days: int = Field(ge=0)
    max_unlabelled_share: float = Field(ge=0, le=1)
    max_value_ratio: float = Field(ge=1)
    max_median_ratio: float = Field(ge=1)
    max_value_ks: float = Field(ge=0, le=1)
    max_time_of_day_ks: float = Field(ge=0, le=1)
    max_clock_shift_ks: float | None = Field(ge=0, le=1)
    max_new_row_share: float = Field(ge=0, le=1)
    max_new_rows_over_usual: float | None = Field(ge=0, le=1)
    max_silent_share: float = Field(ge=0, le=1)
    entities: dict[str, EntityLimits]
    max_positive_share_ratio: float = Field(ge=1)
    max_quarantined_share: float = Field(ge=0, le=1)
    min_label_values: int | None = Field(ge=1)
    max_column_skill: float | None = Field(ge=0, le=1)
    min_window_days: int | None = Field(ge=0)
    min_train_cases: int | None = Field(ge=1)
    min_validation_cases: int | None = Field(ge=1)
    min_test_positives: int | None = Field(ge=1)
    min_test_rows: int | None = Field(ge=1)

    @classmethod
    def load(
        cls,
        workload: Workload,
        overrides: Mapping[str, Any] | None = None,
        path: Path | None = None,
        *,
        profile: str = "",
    ) -> ValidateConfig:
        """Reads `validate.yaml` beside this file, then the workload's own, then a profile's keys, then `overrides`.

        Raises ConfigError naming what is wrong.
        """
        path = path or Path(__file__).with_name("validate.yaml")
        config = load_config(
            cls, path, workload.limits("validate"), workload.profile(profile).get("validate"), overrides
        )
        known = {entity.name for entity in workload.schema.ENTITIES}
        if unknown := sorted(set(config.entities) - known):
            raise ConfigError(f"validate: entities has limits of {unknown}; {workload.name} has {sorted(known)}")
        return config

    def new_row_share(self, entity: str) -> float:
        """The limit of rows of an entity's ids that were never seen before."""
        own = self.entities.get(entity, EntityLimits()).max_new_row_share
        return self.max_new_row_share if own is None else own

    def silent_share(self, entity: str) -> float:
        """The limit of an entity's usual activity that belongs to ids that fell silent."""
        own = self.entities.get(entity, EntityLimits()).max_silent_share
        return self.max_silent_share if own is None else own
