"""Processes that run one command, side by side; to Envoy one cluster, whose requests any of them may get."""

from __future__ import annotations

import asyncio

from serving.local.manifest import Command
from serving.local.processes import ServerProcess, Watched
from serving.local.routed import Component
from serving.local.state import ProcessState


class Replicas:
    """Processes that run one command, each on ports of its own; to Envoy one cluster."""

    def __init__(self, name: str, processes: list[ServerProcess]) -> None:
        self.name = name
        self._processes = processes
        self._watched = [Watched(process) for process in processes]

    @property
    def command(self) -> Command:
        return self._processes[0].command

    @property
    def ready(self) -> bool:
        """Somebody answers now."""
        return any(process.ready.is_set() for process in self._processes)

    @property
    def was_ready(self) -> bool:
        return any(process.was_ready for process in self._processes)

    @property
    def all_ready(self) -> bool:
        return all(process.ready.is_set() for process in self._processes)

    @property
    def failed_starts(self) -> int:
        """How often a process has died while none has ever been ready."""
        return 0 if self.was_ready else max(process.state.restarts for process in self._processes)

    @property
    def states(self) -> list[ProcessState]:
        return [process.state for process in self._processes]

    @property
    def records(self) -> list[str]:
        """Names of their records."""
        return [process.record.stem for process in self._processes]

    @property
    def component(self) -> Component:
        """Those that answer; where none does all of them, so that a request can wait for one."""
        answering = [process.state for process in self._processes if process.ready.is_set()] or self.states
        return Component(self.name, tuple(s.http_port for s in answering), tuple(s.grpc_port for s in answering))

    def begin(self, predictor: str = "") -> None:
        for watched in self._watched:
            watched.begin(predictor)

    async def stop(self) -> None:
        await asyncio.gather(*(watched.stop() for watched in self._watched))
