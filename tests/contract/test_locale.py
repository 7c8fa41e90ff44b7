"""A machine whose locale is Latin-1: files are UTF-8 all the same, and what cannot be shown ends nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = r"""
import locale
from pathlib import Path
from components.validate.config import ValidateConfig
from millrace.installed import load
from millrace.lake.atomic import write_text
from millrace.printing import accept_any_text

assert locale.getpreferredencoding(False) == "ISO-8859-1", locale.getpreferredencoding(False)
accept_any_text()
for name in ("fraud", "trips"):
    for component in ("validate", "evaluate", "train"):
        load(name).limits(component)
write_text(Path("out"), "\u2192 \u00fc")
assert Path("out").read_bytes() == "\u2192 \u00fc".encode()
print("one \u2192 two")
"""


@pytest.fixture
def latin_1(tmp_path: Path) -> dict[str, str]:
    """Variables of a process in such a locale, which is made here."""
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed")
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "en_US.ISO-8859-1")],
        capture_output=True,
        text=True,
        check=False,
    )
    if not (tmp_path / "en_US.ISO-8859-1").exists():
        pytest.skip(f"localedef made no locale: {made.stderr}")
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONUTF8", "PYTHONIOENCODING", "LANG")}
    return kept | {"LOCPATH": str(tmp_path), "LC_ALL": "en_US.ISO-8859-1"}


def test_files_are_utf_8_and_print_ends_nothing(latin_1: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-W", "ignore", "-c", PROGRAM],
        env=latin_1,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode("latin-1")
    assert done.stdout == b"one ? two\n"


def test_a_command_of_a_home_whose_name_is_not_latin_1_works(latin_1: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "домой 'x' [1]"
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-W", "ignore", "-m", "millrace.cli", "champion"],
        env=latin_1 | {"MILLRACE_HOME": str(home)},
        capture_output=True,
        check=False,
    )

    assert done.returncode == 1
    assert b"no model is served from" in done.stderr
    assert b"Traceback" not in done.stderr
