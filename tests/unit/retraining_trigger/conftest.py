"""A home, and a launcher whose retrainings are files on disk: what a real one leaves behind, without the training."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from millrace.settings import Settings
from serving.retraining_trigger.core import OUTCOME, Policy, Request

NOW = datetime(2018, 9, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MILLRACE_RETRAINING_DEBOUNCE_S", "0")
    return Settings()


@pytest.fixture
def policy() -> Policy:
    return Policy(debounce_s=30, cooldown_h=24, every_days=0, timeout_h=6)


@pytest.fixture
def alarm() -> Callable[..., Request]:
    """`alarm("id", hours=0, kind=…)`: an alarm so long after NOW."""

    def build(identity: str, hours: float = 0, kind: str = OUTCOME, *, wanted: bool = True) -> Request:
        return Request(identity, kind, f"because of {identity}", NOW + timedelta(hours=hours), wanted)

    return build


@pytest.fixture
def after() -> Callable[..., datetime]:
    return lambda seconds=0.0, hours=0.0: NOW + timedelta(seconds=seconds, hours=hours)
