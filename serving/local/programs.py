"""A Deployment or StatefulSet as a running process: a companion of the service, or whatever else a home holds."""

from __future__ import annotations

from serving.local.around import Around
from serving.local.manifest import Rewrite, Service
from serving.local.processes import ServerProcess, Watched
from serving.local.state import ProcessState, ServiceState


class RunningProgram:
    """A Deployment's process: started again where its command has changed."""

    logger = None
    routed = None

    def __init__(self, service: Service, around: Around, nice: int = 0) -> None:
        self.name = service.name
        self.service = service
        self.error = ""
        self._around, self._nice = around, nice
        self._running: Watched | None = None
        self._made = self._process(service)

    @property
    def records(self) -> list[str]:
        return [self._made.record.stem]

    @property
    def ports(self) -> dict[str, int]:
        return {self.name: self._made.state.http_port}

    async def follow(self, service: Service, rewrite: Rewrite) -> None:  # noqa: ARG002
        self.service = service
        if self._running is not None and self._running.process.command == service.predictor:
            return
        if self._running is not None:
            await self._running.stop()
        port = self._made.state.http_port
        self._made = self._process(service)
        self._made.state.http_port = port
        self._running = Watched(self._made)
        self._running.begin()

    def look(self) -> None:
        """Nothing is moved by it."""

    def state(self) -> ServiceState:
        state = "ready" if self._running is not None and self._made.ready.is_set() else "starting"
        hash_ = self.service.hash
        port = self.ports[self.name]
        return ServiceState(self.name, self.service.kind, hash_, state=state, error=self.error, port=port)

    def processes(self) -> list[ProcessState]:
        return [self._made.state] if self._running else []

    async def stop(self) -> None:
        if self._running is not None:
            await self._running.stop()

    def _process(self, service: Service) -> ServerProcess:
        place = self._around.place
        record, log_file = place.running / f"{self.name}.json", place.logs / f"{self.name}.log"
        changed = self._around.changed
        return ServerProcess(service.predictor, record, log_file, changed, nice=self._nice, service=self.name)
