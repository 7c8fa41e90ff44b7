"""What runs here, as a file: `<home>/serving/local.json`, written by the supervisor, read by the commands.

Whether a supervisor lives is told by its lock, never by a process id in a file: a lock goes with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from millrace.lake.atomic import write_text

UNSET = "unset"
"""Model version of a manifest that nothing was promoted into."""


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
    service: str = ""
    """Which object of the manifests it belongs to."""
    revision: str = ""
    """Of a predictor."""
    model_version: str = ""


@dataclass(slots=True)
class RevisionState:
    name: str
    model_version: str
    percent: int
    """Of the requests; those that name a revision by its tag aside."""
    ready: bool
    failed_starts: int = 0
    """How often its server has died before it was ready the first time."""


@dataclass(slots=True)
class ServiceState:
    """One object that runs here."""

    name: str
    kind: str
    manifest_hash: str = ""
    model_version: str = ""
    state: str = "starting"
    """starting, ready, skipped."""
    error: str = ""
    """Why it is skipped, or why its manifest as it is now is not followed."""
    port: int = 0
    """Where requests for it arrive: the transformer's, else the splitter's."""
    revisions: list[RevisionState] = field(default_factory=list)
    """The one last rolled out first, then a newer one."""


@dataclass(slots=True)
class LocalState:
    pid: int
    manifest: str
    manifest_hash: str
    service: str
    model_version: str
    gateway_port: int = 0
    grpc_port: int = 0
    """Of the gateway, for gRPC; 0 where no port was free."""
    state: str = "starting"
    """starting, ready, stopping, failed."""
    error: str = ""
    started_at: str = ""
    processes: list[ProcessState] = field(default_factory=list)
    """Those of the main service first: predictor, transformer."""
    services: list[ServiceState] = field(default_factory=list)
    """The main one first."""

    @property
    def models(self) -> list[ServiceState]:
        """Services that answer with a model that was promoted."""
        return [item for item in self.services if item.model_version not in ("", UNSET)]

    def find(self, service: str) -> ServiceState | None:
        return next((item for item in self.services if item.name == service), None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"


def _service(item: dict[str, Any]) -> ServiceState:
    return ServiceState(**item | {"revisions": [RevisionState(**found) for found in item["revisions"]]})


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
    def companions(self) -> Path:
        """Manifests of what watches, one of a kind for each workload."""
        return self.folder / "companions"

    @property
    def file(self) -> Path:
        return self.folder / "local.json"

    def revisions(self, service: str) -> Path:
        """What is remembered of a predictor's revisions."""
        return self.folder / "revisions" / f"{service}.json"

    def manifest(self, model_name: str) -> Path:
        """Where promotion leaves the champion's rendered InferenceService."""
        return self.folder / f"{model_name}.yaml"

    def replay(self, model_name: str) -> Path:
        """What the last replay of a model came to."""
        return self.folder / "replay" / f"{model_name}.json"

    def write(self, state: LocalState) -> None:
        write_text(self.file, json.dumps(asdict(state), indent=2) + "\n")

    def read(self) -> LocalState | None:
        """What the last supervisor wrote; it may be gone. A file of another version is as good as none."""
        try:
            document = json.loads(self.file.read_text())
            processes = [ProcessState(**item) for item in document.pop("processes")]
            services = [_service(item) for item in document.pop("services")]
            return LocalState(**document, processes=processes, services=services)
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
