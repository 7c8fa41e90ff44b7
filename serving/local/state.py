"""What runs here, as a file: `<home>/serving/local.json`, written by the supervisor, read by the commands.

Whether a supervisor lives is told by its lock, never by a process id in a file: a lock goes with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from millrace.atomic import write_text


@dataclass(slots=True)
class ProcessState:
    role: str
    pid: int = 0
    http_port: int = 0
    grpc_port: int = 0
    state: str = "starting"
    """starting, ready, waiting (to be started again), stopped."""
    restarts: int = 0
    started_at: str = ""
    ready_after_s: float = 0.0
    log: str = ""


@dataclass(slots=True)
class LocalState:
    pid: int
    manifest: str
    manifest_hash: str
    service: str
    model_version: str
    gateway_port: int = 0
    state: str = "starting"
    """starting, ready, stopping, failed."""
    error: str = ""
    started_at: str = ""
    processes: list[ProcessState] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the local runtime of one home keeps its files."""

    home: Path

    @property
    def folder(self) -> Path:
        return self.home / "serving"

    @property
    def lock(self) -> Path:
        return self.folder / "local.lock"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def file(self) -> Path:
        return self.folder / "local.json"

    def manifest(self, model_name: str) -> Path:
        """Where promotion leaves the champion's rendered InferenceService."""
        return self.folder / f"{model_name}.yaml"

    def write(self, state: LocalState) -> None:
        write_text(self.file, json.dumps(asdict(state), indent=2) + "\n")

    def read(self) -> LocalState | None:
        """What the last supervisor wrote; it may be gone. A file of another version is as good as none."""
        try:
            document = json.loads(self.file.read_text())
            processes = [ProcessState(**item) for item in document.pop("processes")]
            return LocalState(**document, processes=processes)
        except (FileNotFoundError, json.JSONDecodeError, TypeError, KeyError):
            return None

    def alive(self) -> bool:
        """Whether a supervisor of this home runs now."""
        try:
            pid = int(self.lock.read_text() or 0)
            os.kill(pid, 0)
            if pid == 0:
                return False
            # The id may have gone to another process since; the lock cannot. Only tried when the id is in use, so
            # that a supervisor that is just taking it is not disturbed.
            with self.lock.open("a+") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except (FileNotFoundError, ProcessLookupError, PermissionError, ValueError):
            return False
