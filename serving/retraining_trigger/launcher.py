"""How a retraining is started and asked after: a program on this machine here, Kubeflow Pipelines in `kfp_launcher.py`.

A launcher is asked by the retraining's id and keeps nothing in memory that it needs: after a restart of the trigger it
finds what runs.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from millrace.lake.atomic import sha256_text
from millrace.registry.retraining import lock_path, outcome_of
from millrace.settings import Settings


@dataclass(frozen=True, slots=True)
class Status:
    """Where a retraining is: `absent` (never begun, or ended without a word), `running` or `ended`."""

    where: str
    outcome: str = ""
    detail: str = ""


class Launcher(Protocol):
    """Start, ask, give up; each may be repeated. Raises Unavailable when what runs retrainings is away."""

    def start(self, identity: str, reason: str) -> None: ...

    def status(self, identity: str) -> Status: ...

    def stop(self, identity: str) -> None: ...


class LocalLauncher:
    """`python -m run.retrain` in a session of its own: it outlives a trigger that is killed."""

    def __init__(self, settings: Settings) -> None:
        self._home, self._settings = settings.home, settings
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, identity: str, reason: str) -> None:
        log_path = self.log_path(identity)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "run.retrain", f"--reason={reason}", f"--event-id={identity}"]
        command.append(f"--workload={self._settings.workload}")
        with log_path.open("ab") as stream:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment(self._settings),
                start_new_session=True,
            )

    def status(self, identity: str) -> Status:
        # The process first: what it wrote is complete once it has ended.
        if (self._child is not None and self._child.poll() is None) or _held(lock_path(self._home)):
            return Status("running")
        done = outcome_of(self._home, identity)
        if done is not None:
            return Status("ended", done.outcome, done.detail)
        return Status("absent", detail=self._last_words(identity))

    def stop(self, identity: str) -> None:  # noqa: ARG002 - one runs at a time
        """End the program and its steps."""
        pids = {self._child.pid} if self._child is not None and self._child.poll() is None else set()
        with suppress(FileNotFoundError, ValueError):
            if _held(lock_path(self._home)):
                pids.add(int(lock_path(self._home).read_text(encoding="utf-8")))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)

    def log_path(self, identity: str) -> Path:
        return self._home / "retraining" / "logs" / f"{sha256_text(identity)[:16]}.log"

    def _last_words(self, identity: str) -> str:
        path = self.log_path(identity)
        lines = path.read_text(errors="replace", encoding="utf-8").strip().splitlines()[-3:] if path.is_file() else []
        return " / ".join(lines)


def environment(settings: Settings) -> dict[str, str]:
    """This process's, with what the settings of the workload say of home, source and overrides."""
    said = {
        "MILLRACE_HOME": str(settings.home),
        "MILLRACE_WORKLOAD": settings.workload,
        "MILLRACE_MODEL_NAME": settings.model_name,
        "MILLRACE_RETRAINING_SOURCE": settings.retraining_source,
        "MILLRACE_RETRAINING_OVERRIDES": str(settings.retraining_overrides or ""),
    }
    unset = {name for name, value in said.items() if not value}
    return {name: value for name, value in (os.environ | said).items() if name not in unset}


def _held(path: Path) -> bool:
    """Whether some process holds the lock; a lock goes with its process."""
    try:
        with path.open("a+", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
