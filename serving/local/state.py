"""What runs here, as a file: `<home>/serving/local.json`, written by the supervisor, read by the commands.

Whether a runtime lives is told by its lock, never by a process id in a file: a lock goes with the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from millrace.lake.atomic import write_text

SOCKET_PATH = 90
"""Bytes; a socket's path may have 103 on macOS."""
GATEWAY = "gateway"
"""What the processes belong to that every request passes through, or may."""
AGENT = "agent"
"""Role of the one among them that has the revisions' metrics."""
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
    ended: str = ""
    """How it ended the last time, by itself: by a signal, or with a status."""
    started_at: str = ""
    ready_after_s: float = 0.0
    log: str = ""
    replica: int = 1
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
    """Where requests for it arrive behind the gateway."""
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
    scheme: str = "http"
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
        return f"{self.scheme}://127.0.0.1:{self.gateway_port}"


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
    def running(self) -> Path:
        """Records of the processes that run."""
        return self.folder / "run"

    @property
    def ports(self) -> Path:
        """Which ports are kept while something runs."""
        return self.folder / "ports.json"

    @property
    def envoy(self) -> Path:
        """What Envoy follows, its owner's alone."""
        return self.folder / "envoy"

    @property
    def admin(self) -> Path:
        """Socket of Envoy's administration; elsewhere, in a folder that is the user's alone, where the home's path is
        too long for one.
        """
        path = self.envoy / "admin.sock"
        if len(str(path)) <= SOCKET_PATH:
            return path
        named = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"millrace-{os.getuid()}-{named}" / "admin.sock"

    def forget_envoy(self) -> None:
        """Remove what only a running Envoy needs; the token is in it."""
        for folder in {self.envoy, self.admin.parent}:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def agent(self) -> Path:
        """What the agent follows."""
        return self.folder / "agent.json"

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
            document = json.loads(self.file.read_text(encoding="utf-8"))
            processes = [ProcessState(**item) for item in document.pop("processes")]
            services = [_service(item) for item in document.pop("services")]
            return LocalState(**document, processes=processes, services=services)
        except (FileNotFoundError, json.JSONDecodeError, TypeError, KeyError):
            return None

    def pids(self) -> list[int]:
        """Of whoever keeps a runtime of this home up now: the watch and the supervisor; empty where there is none.

        An id may have gone to another process since; the lock cannot, which ends with those that hold it. It is only
        tried while an id is in use, so that a watch that is just taking it is not disturbed.
        """
        try:
            found = [int(word) for word in self.lock.read_text(encoding="utf-8").split()]
        except (FileNotFoundError, ValueError):
            return []
        found = [pid for pid in found if _exists(pid)]
        if not found:
            return []
        with self.lock.open("a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return found
        return []

    def alive(self) -> bool:
        """Whether a runtime of this home is kept up now."""
        return bool(self.pids())


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
