"""The detector's tests, in its own environment: with alibi-detect 0.11.4, and what depends on it with 0.13.0 too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-drift" / "bin" / "python"
OTHER_VERSION = ROOT / ".venv-drift" / "alibi-detect-0.13.0"
"""alibi-detect 0.13.0 alone; everything else is the same in both locks."""

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-drift: make drift-env")


def run(*arguments: str, **environment: str) -> str:
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | one_thread | environment,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6_000:] + found.stderr[-2_000:]
    return found.stdout


@pytest.mark.slow
def test_the_detector_holds_its_promises_in_its_own_environment():
    assert " passed" in run("tests/drift")


@pytest.mark.slow
def test_the_same_code_runs_with_the_other_version_of_alibi_detect():
    if not OTHER_VERSION.is_dir():
        pytest.skip(f"no {OTHER_VERSION.name} in .venv-drift: make drift-env")

    assert " passed" in run("tests/drift/test_alibi.py", PYTHONPATH=str(OTHER_VERSION))


def test_the_two_locks_differ_in_alibi_detect_alone():
    default, other = (
        set((ROOT / "requirements" / f"drift-detector{name}.txt").read_text().split()) for name in ("", "-bsl")
    )

    assert default ^ other == {"alibi-detect==0.11.4", "alibi-detect==0.13.0"}
