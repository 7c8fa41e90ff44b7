"""Which processes of a home run, on disk: each server writes its own record before its program begins.

So there is no server without a record, whenever the supervisor dies: the next one goes on with what runs, and `down`
ends it. A process id may go to another process; whose it is tells the command line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

STOP_TIMEOUT_S = 35.0
"""A server drains for up to 30 s."""
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Record:
    """A process as it was started."""

    pid: int
    args: list[str]
    environment: str
    """Hash of the variables that it was given: others are another program."""
    http_port: int
    grpc_port: int
    started_at: str

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """None without a readable record."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Aside, then renamed: a reader sees a whole record."""
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(asdict(self)), encoding="utf-8")
        aside.replace(path)

    def runs(self) -> bool:
        """Whether that process, and no other with its id, runs now."""
        return command_line(self.pid).endswith(" ".join(self.args[1:]))


def command_line(pid: int) -> str:
    """Of a process; empty where there is none, or where it has ended and nobody has asked for its status."""
    if sys.platform == "linux":
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
            return os.fsdecode(words.replace(b"\0", b" "))
        return ""
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()


def resident_mb(pid: int) -> float | None:
    """Most that a process has had in memory, in MB (10⁶ bytes); outside Linux what it has now. None: there is none."""
    with suppress(OSError, ValueError, StopIteration):
        if sys.platform == "linux":
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
            kib = next(line for line in lines if line.startswith("VmHWM:")).split()[1]
        else:
            shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
            kib = shown.stdout
        return int(kib) * 1024 / 1e6
    return None


def end_all(folder: Path, but: Sequence[str] = ()) -> list[int]:
    """End every process with a record in a folder, `but` some by name; returns their ids when they have ended."""
    found = {path: Record.read(path) for path in folder.glob("*.json") if path.stem not in but}
    running = [record for record in found.values() if record is not None and record.runs()]
    for path in found:
        path.unlink(missing_ok=True)
    for record in running:
        with suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while any(record.runs() for record in running):
        if time.monotonic() > deadline:
            for record in running:
                with suppress(ProcessLookupError):
                    os.kill(record.pid, signal.SIGKILL)
        time.sleep(LOOK_S)
    return [record.pid for record in running]
