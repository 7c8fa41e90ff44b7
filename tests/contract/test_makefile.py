"""What make does before any target: an environment whose interpreter is gone is made again, any other is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "bob's checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(MAKEFILE, folder)
    return folder


def listed(checkout: Path) -> str:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # nobody is its parent
    done = subprocess.run(["make", "help"], cwd=checkout, env=outside, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "script",
    [
        "#!/an/old/place/.venv/bin/python\n",
        '#!/bin/sh\n\'\'\'exec\' "/an old/place/.venv/bin/python3.11" "$0" "$@"\n',
    ],
)
def test_an_environment_of_a_renamed_checkout_is_made_again(checkout: Path, script: str) -> None:
    (checkout / ".venv" / "bin" / "millrace").write_text(script, encoding="utf-8")

    told = listed(checkout)

    assert told.startswith("make: .venv was made in another place; it is made again\n")
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("script", [f"#!{sys.executable}\n", "#!/usr/bin/env python3\n", ""])
def test_an_environment_that_works_is_left_alone(checkout: Path, script: str) -> None:
    (checkout / ".venv" / "bin" / "millrace").write_text(script, encoding="utf-8")

    assert "made again" not in listed(checkout)
    assert (checkout / ".venv" / "bin" / "millrace").is_file()


def test_without_an_environment_nothing_is_said(tmp_path: Path) -> None:
    shutil.copy(MAKEFILE, tmp_path)

    assert "made again" not in listed(tmp_path)
