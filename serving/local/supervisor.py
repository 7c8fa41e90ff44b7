"""The process behind `up`: runs what the manifests say, follows them when they change, is the gateway.

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
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from millrace.errors import MillraceError, Unavailable
from millrace.lake.atomic import exclusive
from millrace.observe.progress import log
from millrace.observe.tracing import configure
from millrace.settings import Settings, settings
from serving.local.addresses import rewritten
from serving.local.gateway import Gateway
from serving.local.graph import Graph, is_graph, read_graph
from serving.local.manifest import LOOPBACK, PROGRAMS, Service, read_service
from serving.local.objects import Source, sources, stamp
from serving.local.programs import RunningProgram
from serving.local.revision_metrics import RevisionMetrics
from serving.local.services import RunningService
from serving.local.state import LocalState, Place, ServiceState
from serving.wire import StrictProtocol

if TYPE_CHECKING:
    from serving.local.grpc_gateway import GrpcGateway

PORTS_TRIED = 100
GRACE_S = 30
"""For what is under way when it ends."""
LOOK_S = 0.25
"""How often the manifests are looked at; SIGHUP makes it look at once."""
COMPANION_NICE = 10
"""What watches comes after what answers where both want a core; on a cluster each has its own share."""

Running = RunningService | RunningProgram


class Supervisor:
    """Runs the services until SIGTERM; `local.json` says how they are at any time."""

    def __init__(self, service: Service, manifest: Path, place: Place, configured: Settings) -> None:
        self._manifest = manifest.resolve()
        self._place = place
        self._companions = [name for name in configured.companions.split(",") if name]
        place.logs.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._state = LocalState(
            os.getpid(), str(self._manifest), service.hash, service.name, service.model_version, started_at=now
        )
        self._main = service.name
        self._metrics = RevisionMetrics()
        self._running: dict[str, Running] = {}
        self._aliases: dict[str, str] = {}
        self._skipped: dict[str, ServiceState] = {}
        self._graphs: dict[str, Graph] = {}
        self._seen: dict[Path, tuple[int, int]] = {}
        self._look = asyncio.Event()
        self._authorization = configured.gateway_headers.get("authorization", "")
        self._socket = listen(configured.gateway_port)
        self._state.gateway_port = self._socket.getsockname()[1]
        self._gateway = _QuietServer(
            uvicorn.Config(
                Gateway(self._find, self._metrics.text, self._graphs, self._authorization),
                http=StrictProtocol,
                proxy_headers=False,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=GRACE_S,
            )
        )

    async def run(self) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._look.set)
        gateway = asyncio.create_task(self._gateway.serve(sockets=[self._socket]))
        grpc_gateway = await self._serve_grpc()
        follow = asyncio.create_task(self._follow_forever())
        await asyncio.wait({asyncio.create_task(stop.wait()), follow}, return_when=asyncio.FIRST_COMPLETED)
        follow.cancel()
        self._state.state = "stopping"
        self._place.write(self._state)
        # From the outside in: once the gateway has answered everybody, nobody waits for the servers any more.
        self._gateway.should_exit = True
        await asyncio.gather(gateway, grpc_gateway.close(GRACE_S))
        await asyncio.gather(*(running.stop() for running in self._running.values()))
        log("stopped", service=self._state.service)

    async def _serve_grpc(self) -> GrpcGateway:
        from serving.local.grpc_gateway import GrpcGateway  # gRPC's library: not before REST is answered

        served = GrpcGateway(self._find, self._authorization)
        first = self._state.gateway_port + 1
        self._state.grpc_port = await served.start(range(first, min(first + PORTS_TRIED, 65536)))
        return served

    # Following the manifests

    async def _follow_forever(self) -> None:
        while True:
            found = sources(self._manifest, self._place, self._companions)
            stamps = {source.path: stamp(source.path) for source in found}
            if stamps != self._seen or self._look.is_set():
                self._look.clear()
                self._seen = stamps
                await self._follow(found)
                self._write()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), LOOK_S)

    async def _follow(self, found: list[Source]) -> None:
        """Take addresses for what is new, then run what the manifests say; one that is wrong is left out."""
        graphs = [source for source in found if is_graph(source.path)]
        found = [source for source in found if source not in graphs]
        wanted = {source.name: source for source in found if not source.skipped}
        skipped = [source for source in found if source.skipped]
        self._skipped = {s.name: ServiceState(s.name, "", state="skipped", error=s.skipped) for s in skipped}
        for name in self._running.keys() - wanted.keys():
            log("service_removed", service=name)
            await self._running.pop(name).stop()
        for source in wanted.values():
            await self._take_address(source)
        self._aliases = {alias: source.name for source in wanted.values() for alias in source.aliases}
        for source in wanted.values():
            await self._bring(source)
        self._read_graphs(graphs)

    def _read_graphs(self, found: list[Source]) -> None:
        self._graphs.clear()
        for source in found:
            try:
                graph = read_graph(source.path, self._rewrite)
                self._graphs[graph.name] = graph
            except (MillraceError, OSError, KeyError, TypeError) as error:
                self._refuse(source, error)

    async def _take_address(self, source: Source) -> None:
        if source.name in self._running:
            return
        try:
            service = read_service(source.path, self._place.home)
        except (MillraceError, OSError) as error:
            self._refuse(source, error)
            return
        nice = COMPANION_NICE if source.companion else 0
        running: Running
        if service.kind in PROGRAMS:
            running = RunningProgram(service, self._place, self._write, nice)
        else:
            running = RunningService(service, self._place, self._metrics, self._write, nice)
        await running.listen()
        self._running[source.name] = running

    async def _bring(self, source: Source) -> None:
        running = self._running.get(source.name)
        if running is None:
            return
        try:
            service = read_service(source.path, self._place.home, self._rewrite)
            await running.follow(service, self._rewrite)
            running.error = ""
        except (MillraceError, OSError) as error:
            running.error = str(error)
            self._refuse(source, error)
            return
        if source.name == self._main:
            self._state.manifest_hash, self._state.model_version = service.hash, service.model_version

    def _refuse(self, source: Source, error: Exception) -> None:
        """What runs goes on running."""
        log("manifest_refused", service=source.name, path=source.path, error=str(error))
        if source.name not in self._running:
            self._skipped[source.name] = ServiceState(source.name, "", state="skipped", error=str(error))

    def _rewrite(self, value: str) -> str:
        ports: dict[str, int] = {}
        for running in self._running.values():
            ports |= running.ports
        ports |= {alias: ports[name] for alias, name in self._aliases.items() if name in ports}
        return rewritten(value, ports)

    # The gateway's questions, and the state's file

    def _find(self, model_name: str) -> Running | None:
        return self._running.get(model_name) or self._running.get(self._main)

    def _write(self) -> None:
        if self._state.state == "stopping":
            return
        services = [running.state() for running in self._running.values()]
        self._state.services = [*services, *self._skipped.values()]
        self._state.processes = [state for running in self._running.values() for state in running.processes()]
        main = self._state.find(self._main)
        self._state.state = main.state if main is not None and main.state != "skipped" else "starting"
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
    arguments = argparse.ArgumentParser(description="Run an InferenceService and its companions until SIGTERM.")
    arguments.add_argument("--manifest", type=Path, required=True)
    options = arguments.parse_args()
    configured = settings()
    configure("millrace-gateway")
    place = Place(configured.home.resolve())
    with exclusive(place.lock, f"the local runtime of {place.home}"):
        try:
            service = read_service(options.manifest, place.home)
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
            asyncio.run(_run(service, options.manifest, place, configured))
        except MillraceError as error:
            _report_failure(place, options.manifest, error)
            raise SystemExit(str(error)) from error
        finally:
            state = place.read()
            if state is not None and state.state != "failed":
                place.file.unlink(missing_ok=True)


async def _run(service: Service, manifest: Path, place: Place, configured: Settings) -> None:
    await Supervisor(service, manifest, place, configured).run()


def _report_failure(place: Place, manifest: Path, error: Exception) -> None:
    place.write(LocalState(os.getpid(), str(manifest), "", "", "", state="failed", error=str(error)))


if __name__ == "__main__":
    main()
