"""The machine and the environment that programs run in. Nothing is changed."""

from __future__ import annotations

import locale
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from millrace.errors import MillraceError
from millrace.settings import Settings
from serving.local.data_plane import program
from serving.local.doctor.findings import Finding
from serving.local.state import Place

ROOT: Final = Path(__file__).parents[3]
"""The checkout."""
LEAST_FREE_GB: Final = 1.0
"""A run of the demo writes half of it."""
LEAST_MEMORY_GB: Final = 4.0
SETUP: Final = "Make the environment again: make setup"
REMAKE: Final = "Make the environment again: rm -rf .venv && make setup"


def python(_: Settings) -> Iterator[Finding]:
    version = sys.version_info
    if version[:2] != (3, 11):
        got = ".".join(map(str, version[:3]))
        yield Finding("python", f"this is Python {got}, wanted 3.11", "make setup PYTHON=/path/to/python3.11")


def environment(_: Settings) -> Iterator[Finding]:
    """The packages of the lock, in their versions; and programs whose interpreter is where they say."""
    wanted = _locked(ROOT / "requirements" / "main.txt")
    there = {_plain(found.metadata["Name"]): found.version.partition("+")[0] for found in distributions()}
    missing = [name for name in wanted if name not in there]
    other = [f"{name} {there[name]}" for name, pin in wanted.items() if there.get(name, pin) != pin]
    if missing:
        yield Finding("environment", f"{len(missing)} packages are missing, {missing[0]} among them", SETUP)
    if other:
        yield Finding(
            "environment", f"{len(other)} packages are not of the lock's version, {other[0]} among them", SETUP
        )

    script = ROOT / ".venv" / "bin" / "millrace"
    if script.is_file():
        with script.open("rb") as stream:
            interpreter = os.fsdecode(stream.readline().removeprefix(b"#!").strip())
        if interpreter.startswith("/") and " " not in interpreter and not Path(interpreter).exists():
            yield Finding(
                "environment", f"{script} starts with {interpreter}, which is gone: the checkout moved", REMAKE
            )


def drift_environment(here: Settings) -> Iterator[Finding]:
    interpreter = ROOT / ".venv-drift" / "bin" / "python"
    if "drift-detector" not in here.companions:
        return
    if not interpreter.exists():
        told = "there is none in .venv-drift, so no drift is watched"
        yield Finding("drift environment", told, "make drift-env", wrong=False)
    elif (said := _fault([str(interpreter), "-c", "pass"])) is not None:
        yield Finding("drift environment", said, "rm -rf .venv-drift && make drift-env")


def envoy(_: Settings) -> Iterator[Finding]:
    try:
        said = _fault([program(), "--version"])
    except MillraceError as error:
        said = str(error)
    if said is not None:
        yield Finding("envoy", said.rstrip("."), SETUP)


def text(_: Settings) -> Iterator[Finding]:
    encoding = locale.getpreferredencoding(False)
    if encoding.upper().replace("-", "") != "UTF8":
        told = f"the locale's encoding is {encoding}; files are UTF-8 all the same"
        yield Finding("locale", told, "To see every character: export LC_ALL=C.UTF-8", wrong=False)


def disk(here: Settings) -> Iterator[Finding]:
    folder = next(one for one in (here.home, *here.home.parents) if one.is_dir())
    free = shutil.disk_usage(folder).free / 1e9
    if free < LEAST_FREE_GB:
        told = f"{free:.2f} GB are free below {folder}, wanted {LEAST_FREE_GB:g}"
        yield Finding("disk", told, "Free some; what of the home may go: docs/runbook.md, disk full")


def memory(_: Settings) -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if total < LEAST_MEMORY_GB:
        told = f"this machine has {total:.1f} GB, a run wants {LEAST_MEMORY_GB:g}"
        yield Finding("memory", told, "export MILLRACE_MEMORY_LIMIT_GB=1 MILLRACE_PROCESSES=1", wrong=False)


def ports(here: Settings) -> Iterator[Finding]:
    """Whether the gateway's port is free, or our own runtime's."""
    if Place(here.home).alive():
        return
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("127.0.0.1", here.gateway_port))
        except OSError:
            told = f"port {here.gateway_port} is another program's; the next free one will be taken"
            yield Finding("ports", told, "Name one: export MILLRACE_GATEWAY_PORT=8081", wrong=False)


def _locked(path: Path) -> dict[str, str]:
    """Package → version of the lines that hold on this machine."""
    if not path.is_file():
        return {}
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pins = (line.partition("==") for line in lines if "==" in line and ";" not in line)
    return {_plain(name.partition("[")[0]): pin.split()[0] for name, _, pin in pins}


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _fault(command: list[str]) -> str | None:
    """What a command says when it does not run; None when it does."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=3, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} does not run: {error}"
    if done.returncode:
        last = [*done.stderr.strip().splitlines(), f"status {done.returncode}"][0]
        return f"{command[0]} does not run: {last}"
    return None
