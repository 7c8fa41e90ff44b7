"""What a search may try: typed ranges and choices over the keys of `train.yaml`; reads the YAML, knows no Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, model_validator

from components.train.core import AnyTrainConfig, read_config
from millrace.config import Config, load_config
from millrace.errors import ConfigError
from millrace.installed import Workload

Number = StrictInt | StrictFloat


class Range(Config):
    """Numbers from `low` to `high`, both included; whole ones where both ends are."""

    low: Number
    high: Number
    log: StrictBool = False
    """Equal ratios are equally likely."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("wanted low < high, and low > 0 with log")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def examples(self) -> tuple[Any, ...]:
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        return isinstance(value, int if self.whole else (int, float)) and self.low <= value <= self.high


class Choices(Config):
    """One of these values."""

    choices: tuple[StrictBool | StrictInt | StrictFloat | str, ...] = Field(min_length=1)

    @property
    def examples(self) -> tuple[Any, ...]:
        return self.choices

    def holds(self, value: Any) -> bool:
        return value in self.choices


class SearchSpace(Config):
    """Parameters, and when a trial is given up."""

    pruner: Literal["median", "hyperband", "none"] = "median"
    startup_trials: StrictInt = Field(default=5, ge=1)
    """Trials that are drawn at random and never given up."""
    warmup_epochs: StrictInt = Field(default=1, ge=0)
    """Epochs before a trial may be given up."""
    parameters: dict[str, Range | Choices] = Field(min_length=1)
    """Key of `train.yaml`, `model.` before those of the architecture → what to try."""


def read_space(workload: Workload, path: Path | None, base: Mapping[str, Any]) -> SearchSpace:
    """The workload's `search.yaml`, beside its `train.yaml`, or the file at `path`.

    Raises ConfigError when a key or an end of a range is none of train's.
    """
    path = path or workload.model.TRAIN_CONFIG.with_name("search.yaml")
    space = load_config(SearchSpace, path)
    for key, values in space.parameters.items():
        for value in values.examples:
            try:
                read_config(workload, **overrides({key: value}, base))
            except ConfigError as error:
                raise ConfigError(f"{path}: parameters.{key} may be {value!r}: {error}") from error
    return space


def overrides(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """`{"model.width": 8}` → `{"model": {"width": 8}}`, over the overrides in `base`."""
    nested: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[name] = value
    return nested


def start_of(space: SearchSpace, config: AnyTrainConfig) -> dict[str, Any]:
    """The parameters as `config` has them, without those that lie outside the space."""
    flat = config.model_dump()
    flat |= {f"model.{name}": value for name, value in flat.pop("model").items()}
    return {key: flat[key] for key, values in space.parameters.items() if values.holds(flat[key])}
