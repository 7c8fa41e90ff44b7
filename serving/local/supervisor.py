"""The process behind `up`: runs what the manifests say, follows them when they change, and keeps Envoy told.

No request passes through it, and what it started outlives it: the next one goes on where it was (`watch.py` starts
that). Imports neither kserve nor feast: it is up in half a second, and the servers load while it waits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop

from millrace.errors import MillraceError
from millrace.lake.atomic import write_text
from millrace.observe.progress import log
from millrace.settings import Settings, settings
from serving.local import agent
from serving.local.addresses import rewritten
from serving.local.around import Around
from serving.local.data_plane import DataPlane
from serving.local.entrance import entrance
from serving.local.graph import Graph, is_graph, read_graph
from serving.local.manifest import PROGRAMS, Service, read_service
from serving.local.objects import Source, sources, stamp
from serving.local.ports import Ports
from serving.local.processes import ServerProcess, Watched
from serving.local.programs import RunningProgram
from serving.local.records import Record, end_all
from serving.local.routed import Routed
from serving.local.services import RunningService
from serving.local.state import GATEWAY, LocalState, Place, ServiceState

GRACE_S: Final = 30.0
"""For what is under way when it ends."""
LOOK_S: Final = 0.25
"""How often the manifests are looked at; SIGHUP makes it look at once."""
COMPANION_NICE: Final = 10
"""What watches comes after what answers where both want a core; on a cluster each has its own share."""
REFUSED: Final = 3
"""Exit status of a runtime that cannot run: starting it again would change nothing."""

Running = RunningService | RunningProgram


class Supervisor:
    """Runs the services until SIGTERM; `local.json` says how they are at any time."""

    def __init__(self, service: Service, manifest: Path, place: Place, configured: Settings) -> None:
        self._manifest = manifest.resolve()
        self._place = place
        self._companions = [name for name in configured.companions.split(",") if name]
        place.logs.mkdir(parents=True, exist_ok=True)
        self._state = LocalState(os.getpid(), str(self._manifest), service.hash, service.name, service.model_version)
        self._state.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._running: dict[str, Running] = {}
        self._aliases: dict[str, str] = {}
        self._skipped: dict[str, ServiceState] = {}
        self._graphs: dict[str, Graph] = {}
        self._seen: dict[Path, tuple[int, int]] = {}
        self._look = asyncio.Event()
        self._followed = False
        self._described = ""

        envoy = Record.read(place.running / "envoy.json")
        ports = Ports(place.ports, held=envoy is not None and envoy.runs())
        self._agent = Watched(self._agent_process())
        found = entrance(configured, place, service.name, self._agent.process.state.http_port)
        self._data_plane = DataPlane(place, found, ports, self._changed)
        replicas = {"transformer": configured.transformer_replicas, "predictor": configured.predictor_replicas}
        self._around = Around(place, ports, self._data_plane, self._changed, replicas)
        self._state.scheme = "https" if configured.tls_cert else "http"

    async def run(self) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._look.set)
        follow = asyncio.create_task(self._follow_forever())
        await asyncio.wait({asyncio.create_task(stop.wait()), follow}, return_when=asyncio.FIRST_COMPLETED)
        follow.cancel()
        self._state.state = "stopping"
        self._place.write(self._state)
        # From the outside in: once Envoy has answered everybody, nobody waits for the servers any more.
        await self._data_plane.stop(GRACE_S)
        await asyncio.gather(self._agent.stop(), *(running.stop() for running in self._running.values()))
        self._place.ports.unlink(missing_ok=True)
        log("stopped", service=self._state.service)
        if follow.done() and not follow.cancelled():
            follow.result()

    # Following the manifests

    async def _follow_forever(self) -> None:
        while True:
            found = sources(self._manifest, self._place, self._companions)
            stamps = {source.path: stamp(source.path) for source in found}
            if stamps != self._seen or self._look.is_set():
                self._look.clear()
                self._seen = stamps
                await self._follow(found)
                if not self._followed:
                    self._begin()
                self._changed()
            await self._data_plane.trim_access_log()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), LOOK_S)

    def _begin(self) -> None:
        """Once everything is known that runs: Envoy may be running already, and is not to lose a route."""
        self._followed = True
        self._data_plane.route(self._routes(), self._agent.process.state.http_port)
        self._data_plane.begin()
        self._agent.begin()
        wanted = {"envoy", "agent", *(name for running in self._running.values() for name in running.records)}
        self._sweeping = asyncio.create_task(asyncio.to_thread(end_all, self._place.running, sorted(wanted)))

    async def _follow(self, found: list[Source]) -> None:
        """Take addresses for what is new, then run what the manifests say; one that is wrong is left out."""
        graphs = [source for source in found if is_graph(source.path)]
        found = [source for source in found if source not in graphs]
        wanted = {source.name: source for source in found if not source.skipped}
        skipped = [source for source in found if source.skipped]
        self._skipped = {s.name: ServiceState(s.name, "", state="skipped", error=s.skipped) for s in skipped}
        for name in self._running.keys() - wanted.keys():
            log("service_removed", service=name)
            leaving = self._running.pop(name)
            self._changed()
            await leaving.stop()
        for source in wanted.values():
            self._take_address(source)
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

    def _take_address(self, source: Source) -> None:
        if source.name in self._running:
            return
        try:
            service = read_service(source.path, self._place.home)
        except (MillraceError, OSError) as error:
            self._refuse(source, error)
            return
        nice = COMPANION_NICE if source.companion else 0
        kind = RunningProgram if service.kind in PROGRAMS else RunningService
        self._running[source.name] = kind(service, self._around, nice)

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
        if source.name == self._state.service:
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

    # What Envoy and the agent are told, and the state's file

    def _routes(self) -> list[Routed]:
        return [running.routed for running in self._running.values() if running.routed is not None]

    def _agent_process(self) -> ServerProcess:
        place = self._place
        paths = place.running / "agent.json", place.logs / "agent.log"
        return ServerProcess(agent.command(place.agent, place.admin), *paths, self._changed, service=GATEWAY)

    def _changed(self) -> None:
        """Envoy, the agent and the state's file follow what runs."""
        if not self._followed or self._state.state == "stopping":
            return
        loggers = {name: r.logger for name, r in self._running.items() if r.logger is not None}
        text = agent.described(loggers, self._graphs)
        if text != self._described:
            write_text(self._place.agent, text)
            self._described = text
        self._data_plane.route(self._routes(), self._agent.process.state.http_port)
        self._write()

    def _write(self) -> None:
        services = [running.state() for running in self._running.values()]
        own = [self._data_plane.process.state, self._agent.process.state]
        now = self._data_plane.entrance
        self._state.gateway_port, self._state.grpc_port = now.port, now.grpc_port
        self._state.services = [*services, *self._skipped.values()]
        self._state.processes = [state for running in self._running.values() for state in running.processes()] + own
        main = self._state.find(self._state.service)
        answers = all(state.state == "ready" for state in own)
        self._state.state = main.state if main is not None and main.state != "skipped" and answers else "starting"
        self._place.write(self._state)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Run an InferenceService and its companions until SIGTERM.")
    arguments.add_argument("--manifest", type=Path, required=True)
    arguments.add_argument("--lock", type=int, help="the runtime's lock, an open file: whose it is lives")
    options = arguments.parse_args()
    if options.lock is not None:
        os.set_inheritable(options.lock, False)  # what the supervisor starts does not hold it
    configured = settings()
    place = Place(configured.home.resolve())
    try:
        service = read_service(options.manifest, place.home)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.run(Supervisor(service, options.manifest, place, configured).run())
    except MillraceError as error:
        place.write(LocalState(os.getpid(), str(options.manifest), "", "", "", state="failed", error=str(error)))
        print(error, file=sys.stderr)
        raise SystemExit(REFUSED) from error
    place.file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
