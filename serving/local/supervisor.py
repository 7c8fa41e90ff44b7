"""The process behind `up`: starts the servers of an InferenceService side by side, keeps them alive, is the gateway.

Imports neither kserve nor feast: it is up in half a second, and the servers load while it waits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from millrace.atomic import exclusive
from millrace.errors import MillraceError, Unavailable
from millrace.progress import log
from millrace.settings import settings
from serving.connections import Connections
from serving.local.gateway import Gateway
from serving.local.manifest import LOOPBACK, Service, read_service
from serving.local.processes import ServerProcess
from serving.local.state import LocalState, Place

PORTS_TRIED = 100


class Supervisor:
    """Runs one service until SIGTERM; `local.json` says how it is at any time."""

    def __init__(self, service: Service, manifest: Path, place: Place, gateway_port: int) -> None:
        self._place = place
        place.logs.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._state = LocalState(
            os.getpid(), str(manifest.resolve()), service.hash, service.name, service.model_version, started_at=now
        )
        commands = [service.predictor, *([service.transformer] if service.transformer else [])]
        self._processes = [
            ServerProcess(command, place.logs / f"{command.role}.log", self._write) for command in commands
        ]
        self._state.processes = [process.state for process in self._processes]
        self._socket = listen(gateway_port)
        self._state.gateway_port = self._socket.getsockname()[1]
        gateway = Gateway(self._upstream, service.timeout_s)
        config = uvicorn.Config(
            gateway, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=30
        )
        self._gateway = _QuietServer(config)

    async def run(self) -> None:
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        predictor = self._processes[0].address
        watches = [asyncio.create_task(process.watch(predictor)) for process in self._processes]
        gateway = asyncio.create_task(self._gateway.serve(sockets=[self._socket]))
        self._write()
        await stop.wait()
        self._set("stopping")
        # From the outside in: once the gateway has answered everybody, nobody waits for the servers any more.
        self._gateway.should_exit = True
        await gateway
        await asyncio.gather(*(process.stop() for process in self._processes))
        await asyncio.gather(*watches)
        log("stopped", service=self._state.service)

    def _upstream(self) -> Connections | None:
        outer = self._processes[-1]
        return outer.connections if outer.ready.is_set() else None

    def _write(self) -> None:
        if self._state.state != "stopping":
            ready = all(process.ready.is_set() or process.state.state == "ready" for process in self._processes)
            self._state.state = "ready" if ready else "starting"
        self._place.write(self._state)

    def _set(self, state: str) -> None:
        self._state.state = state
        self._place.write(self._state)


class _QuietServer(uvicorn.Server):
    """Signals are the supervisor's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(port: int) -> socket.socket:
    """A listening socket on the loopback interface at `port`, or at the next free one; raises Unavailable."""
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((LOOPBACK, candidate))
            server.listen(2048)
        except OSError:
            server.close()
            continue
        return server
    raise Unavailable(f"no free port from {port} to {port + PORTS_TRIED - 1}. Set MILLRACE_GATEWAY_PORT.")


def main() -> None:
    arguments = argparse.ArgumentParser(description="Run one InferenceService until SIGTERM.")
    arguments.add_argument("--manifest", type=Path, required=True)
    options = arguments.parse_args()
    configured = settings()
    place = Place(configured.home.resolve())
    with exclusive(place.lock, f"the local runtime of {place.home}"):
        try:
            service = read_service(options.manifest, place.home)
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
            asyncio.run(_run(service, options.manifest, place, configured.gateway_port))
        except MillraceError as error:
            _report_failure(place, options.manifest, error)
            raise SystemExit(str(error)) from error
        finally:
            state = place.read()
            if state is not None and state.state != "failed":
                place.file.unlink(missing_ok=True)


async def _run(service: Service, manifest: Path, place: Place, port: int) -> None:
    await Supervisor(service, manifest, place, port).run()


def _report_failure(place: Place, manifest: Path, error: Exception) -> None:
    nothing: dict[str, Any] = {"manifest_hash": "", "service": "", "model_version": ""}
    place.write(LocalState(os.getpid(), str(manifest), **nothing, state="failed", error=str(error)))


if __name__ == "__main__":
    main()
