"""Settings of the drift detector, prefix `MILLRACE_DRIFT_`; those it shares with the rest are `millrace.settings`'."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from millrace.errors import ConfigError
from millrace.settings import Settings


class DriftSettings(BaseSettings):
    """One field per setting; the defaults hold the promises on false alarms and power (README)."""

    model_config = SettingsConfigDict(env_prefix="MILLRACE_DRIFT_", extra="ignore", frozen=True)

    backend: Literal["alibi", "streaming"] = "alibi"
    """Who computes the tests: alibi-detect, or SciPy and scikit-learn (a third of the memory, a fifth of the time)."""

    model_store: Path | None = None
    """Folder with one folder per model version; absent: `<home>/serving/models/<model name>`."""

    state: Path | None = None
    """Folder of what survives a restart; absent: `<home>/drift/<model name>`."""

    window_rows: int = Field(default=1_000, ge=100, le=100_000)
    hop_rows: int = Field(default=500, ge=1)
    """A window is judged every so many requests."""

    period_s: float = Field(default=86_400.0, ge=0)
    """Event time of a window by time; 0: none."""

    level: float = Field(default=0.004, gt=0, lt=1)
    """False-discovery rate of one window."""

    arms: str = "champion,challenger"
    """Whose predictions are watched; a shadow's inputs are the champion's."""

    event_ids: int = Field(default=200_000, ge=1_000)
    """Ids of events that are remembered, to count none twice."""

    save_every_rows: int = Field(default=5_000, ge=1)
    """Rows between two writes of the state; the stream keeps those in between."""

    online: bool = False
    """Also follow every request with an online detector (`online.py`), which signals on a metric."""

    online_expected_run_length: int = Field(default=20_000, ge=200)
    """Requests between two false signals of it."""

    def store_of(self, shared: Settings) -> Path:
        """Where the watched model's versions are."""
        return self.model_store or shared.home / "serving" / "models" / shared.model_name

    def folder_of(self, shared: Settings) -> Path:
        """Where the state of the watched model's detector is."""
        return self.state or shared.home / "drift" / shared.model_name


def drift_settings() -> DriftSettings:
    """Read the environment; raises ConfigError naming the variable."""
    try:
        return DriftSettings()
    except ValidationError as error:
        lines = [f"MILLRACE_DRIFT_{str(e['loc'][0]).upper()} is {e['input']!r}: {e['msg']}" for e in error.errors()]
        raise ConfigError("; ".join(lines)) from error
