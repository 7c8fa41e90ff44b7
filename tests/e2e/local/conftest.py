"""What several stories begin with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_world() -> Callable[..., Path]:
    """`small_world(env, days=…, customers=…, terminals=…)` fills the home of `env` → folder of its feature set."""

    def make(env: Mapping[str, str], *, days: int, customers: int, terminals: int) -> Path:
        sizes = [str(size) for size in (days, customers, terminals)]
        place = env["MILLRACE_HOME"], *sizes, env["MILLRACE_HISTORY_LENGTH"]
        command = [sys.executable, str(Path(__file__).with_name("small_world.py")), *place]
        made = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
        assert made.returncode == 0, made.stderr
        return Path(made.stdout.split()[-1])

    return make
