"""A Deployment or StatefulSet as a running process: a companion of the service, or whatever else a home holds."""

from __future__ import annotations

from collections.abc import Callable

from serving.connections import Connections
from serving.local.exchange import Upstream
from serving.local.manifest import Rewrite, Service
from serving.local.processes import ServerProcess, Watched, free_port
from serving.local.state import Place, ProcessState, ServiceState


class RunningProgram:
    """A Deployment's process: started again where its command has changed."""

    logger = None
    timeout_s = 60.0

    def __init__(self, service: Service, place: Place, changed: Callable[[], None], nice: int = 0) -> None:
        self.name = service.name
        self.service = service
        self.error = ""
        self._place = place
        self._changed, self._nice = changed, nice
        self._port = free_port()
        self._running: Watched | None = None

    async def listen(self) -> None:
        """Its server does."""

    @property
    def ports(self) -> dict[str, int]:
        return {self.name: self._running.process.state.http_port if self._running else self._port}

    async def follow(self, service: Service, rewrite: Rewrite) -> None:  # noqa: ARG002
        self.service = service
        if self._running is not None and self._running.process.command == service.predictor:
            return
        if self._running is not None:
            await self._running.stop()
        path = self._place.logs / f"{self.name}.log"
        self._running = Watched(
            ServerProcess(service.predictor, path, self._changed, self._port, nice=self._nice, service=self.name)
        )
        self._running.begin()

    async def connections(self) -> Connections | None:
        process = self._running.process if self._running else None
        return process.connections if process is not None and process.ready.is_set() else None

    async def grpc_target(self, tag: bytes) -> None:
        """A Deployment has no gRPC here."""

    def record(self, upstream: Upstream, status: int, seconds: float) -> None:
        """Nothing to count."""

    def state(self) -> ServiceState:
        state = "ready" if self._running is not None and self._running.process.ready.is_set() else "starting"
        hash_ = self.service.hash
        return ServiceState(
            self.name, self.service.kind, hash_, state=state, error=self.error, port=self.ports[self.name]
        )

    def processes(self) -> list[ProcessState]:
        return [self._running.process.state] if self._running else []

    async def stop(self) -> None:
        if self._running is not None:
            await self._running.stop()
