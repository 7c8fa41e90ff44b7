"""Environments of the servers that we compare with: their pins cannot join ours. Made when first asked for, with uv."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from millrace.settings import settings

REQUIREMENTS: Final = Path(__file__).parent / "requirements"


def environment(name: str) -> Path | None:
    """The environment of `requirements/<name>.txt`; None, with the reason printed, when it cannot be installed."""
    wanted = (REQUIREMENTS / f"{name}.txt").read_text()
    folder = settings().home / "bench-envs" / name
    made_of = folder / "requirements.txt"
    if made_of.exists() and made_of.read_text() == wanted:
        return folder
    print(f"installing {name} into {folder}", file=sys.stderr)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    python = str(folder / "bin" / "python")
    for command in (
        [uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "-q", "--python", python, "-r", str(REQUIREMENTS / f"{name}.txt")],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return _absent(name, str(error))
        if done.returncode:
            return _absent(name, done.stderr.strip()[-500:])
    made_of.write_text(wanted)
    return folder


def _absent(name: str, why: str) -> None:
    print(f"{name} cannot be installed, its figures are left out: {why}", file=sys.stderr)
