"""An InferenceService as running processes, brought to what its manifest says now without a failed request.

A predictor has the revision that was last rolled out and, while traffic moves, a newer one; the splitter stands before
both. A new revision starts beside the old one, which answers until the new one is ready and is drained afterwards. The
transformer exists once, since it holds the newest states: a changed one follows the old one, and the gateway
lets requests wait meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final

from millrace.observe.progress import log
from serving.connections import Connections
from serving.local.exchange import Upstream
from serving.local.logger import EventLogger
from serving.local.manifest import LOOPBACK, Command, Logger, Rewrite, Service, component
from serving.local.processes import ServerProcess, Watched, free_port
from serving.local.revision_metrics import RevisionMetrics
from serving.local.revisions import Revision, Revisions
from serving.local.splitter import Splitter
from serving.local.state import Place, ProcessState, RevisionState, ServiceState

DRAIN_S: Final = 30.0
SWITCH_S: Final = 30.0
"""How long requests wait for a transformer that is being replaced."""


class _Predictor(Watched):
    """A revision's process, and the place that the splitter sends to."""

    def __init__(self, process: ServerProcess, revision: str) -> None:
        super().__init__(process)
        self.upstream = Upstream(revision)

    async def stop(self) -> None:
        """Wait for what is under way, then end it."""
        await self.upstream.drained(DRAIN_S)
        self.upstream.close()
        await super().stop()


class RunningService:
    """An InferenceService's processes. `follow` brings them to a manifest; `changed` is called when a state changed."""

    def __init__(
        self, service: Service, place: Place, metrics: RevisionMetrics, changed: Callable[[], None], nice: int = 0
    ) -> None:
        self.name = service.name
        self.service = service
        self.error = ""
        self.logger: EventLogger | None = None
        self._place = place
        self._changed, self._nice = changed, nice
        self._splitter = Splitter(service.name, metrics)
        self._revisions: Revisions | None = None
        self._predictors: dict[int, _Predictor] = {}
        self._transformer: Watched | None = None
        self._transformer_port = free_port() if service.transformer else 0
        self._background: set[asyncio.Task[None]] = set()
        self._swap = asyncio.Lock()
        self._replaced = False

    async def listen(self) -> None:
        """Take the predictor's address; it stays the same as long as the service runs."""
        await self._splitter.start()
        self._to_splitter = Connections(LOOPBACK, self._splitter.port, limit=256)

    @property
    def ports(self) -> dict[str, int]:
        """DNS name → port, of the service as a whole and of its predictor."""
        outer = self._transformer.process.state.http_port if self._transformer else self._transformer_port
        return {self.name: outer or self._splitter.port, f"{self.name}-predictor": self._splitter.port}

    @property
    def timeout_s(self) -> float:
        return self.service.timeout_s

    async def follow(self, service: Service, rewrite: Rewrite) -> None:
        """Run what the manifest says now: traffic at once, a new revision when it is ready."""
        path = self._place.revisions(self.name)
        revisions = Revisions.following(self._revisions or Revisions.read(path), service.document)
        missing = [r for r in (revisions.rolled_out, revisions.newest) if r.number not in self._predictors]
        commands = [component("predictor", revision.document, self._place.home, rewrite) for revision in missing]
        revisions.write(path)
        self._log_to(service.logger)
        self.service, self._revisions = service, revisions
        for revision, command in zip(missing, commands, strict=True):
            if revision.number not in self._predictors:
                self._start_predictor(revision, command)
        if service.transformer is not None:
            self._start_transformer(service.transformer)
        self._route()

    async def connections(self) -> Connections | None:
        """Where requests go now; waits while a transformer is being replaced. None while nobody is ready."""
        if self._transformer is None:
            return self._to_splitter if self._splitter.traffic else None
        process = self._transformer.process
        if self._replaced and not process.was_ready:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.ready.wait(), SWITCH_S)
        return process.connections if process.ready.is_set() else None

    async def grpc_target(self, tag: bytes) -> tuple[int, Upstream | None] | None:
        """As `connections`, for a gRPC call: the transformer's port, else that of the revision which the call gets."""
        if self._transformer is not None:
            ready = await self.connections()
            return None if ready is None else (self._transformer.process.state.grpc_port, None)
        upstream = self._splitter.pick(tag)
        return None if upstream is None else (upstream.grpc_port, upstream)

    def record(self, upstream: Upstream, status: int, seconds: float) -> None:
        self._splitter.record(upstream, status, seconds)

    def state(self) -> ServiceState:
        ready = self._revisions is not None and all(process.state == "ready" for process in self.processes())
        return ServiceState(
            name=self.name,
            kind=self.service.kind,
            manifest_hash=self.service.hash,
            model_version=self.service.model_version,
            state="ready" if ready else "starting",
            error=self.error,
            port=self.ports[self.name],
            revisions=list(self._revision_states()),
        )

    def processes(self) -> list[ProcessState]:
        """The predictor that was last rolled out, the transformer, then a newer predictor."""
        running = [item for _, item in self._in_order()]
        found = [*running[:1], self._transformer, *running[1:]]
        return [item.process.state for item in found if item is not None]

    async def stop(self) -> None:
        """From the outside in: nobody waits for a predictor once the transformer has answered everybody."""
        if self._transformer is not None:
            await self._transformer.stop()
        self._splitter.close()
        await asyncio.gather(*(item.stop() for item in self._predictors.values()), *self._background)
        self._to_splitter.close()
        if self.logger is not None:
            await self.logger.close()

    # Predictors

    def _in_order(self) -> Iterator[tuple[Revision, _Predictor]]:
        """The revision last rolled out, then a newer one."""
        if self._revisions is None:
            return
        both = {item.number: item for item in (self._revisions.rolled_out, self._revisions.newest)}
        yield from ((item, self._predictors[number]) for number, item in both.items() if number in self._predictors)

    def _revision_states(self) -> Iterator[RevisionState]:
        traffic = self._splitter.traffic
        for revision, running in self._in_order():
            process = running.process
            failed = 0 if process.was_ready else process.state.restarts
            yield RevisionState(
                revision.name, revision.model_version, traffic.get(revision.name, 0), process.ready.is_set(), failed
            )

    def _start_predictor(self, revision: Revision, command: Command) -> None:
        log("revision_starts", service=self.name, revision=revision.name, model_version=revision.model_version)
        process = ServerProcess(
            command,
            self._place.logs / f"{revision.name}.log",
            self._route,
            nice=self._nice,
            service=self.name,
            revision=revision.name,
            model_version=revision.model_version,
        )
        running = self._predictors[revision.number] = _Predictor(process, revision.name)
        running.begin()

    def _route(self) -> None:
        """Traffic as the manifest says, among the revisions that are ready; one that is no longer wanted is retired."""
        if self._revisions is None:
            return
        for running in self._predictors.values():
            running.upstream.port = running.process.state.http_port
            running.upstream.grpc_port = running.process.state.grpc_port
        percent = self.service.canary_percent
        newest = self._predictors[self._revisions.newest.number]
        if percent in (None, 100) and newest.process.was_ready:
            self._roll_out()
        stable = self._predictors[self._revisions.rolled_out.number]
        first = stable.upstream if stable.process.ready.is_set() else None
        second = newest.upstream if newest is not stable and newest.process.was_ready else None
        self._splitter.route(first, second, percent or 0)
        wanted = {self._revisions.rolled_out.number, self._revisions.newest.number}
        for number in self._predictors.keys() - wanted:
            self._retire(number)
        self._changed()

    def _roll_out(self) -> None:
        revisions = self._revisions
        if revisions is None or revisions.newest.number == revisions.rolled_out.number:
            return
        log("rolled_out", service=self.name, revision=revisions.newest.name)
        self._revisions = revisions.rolled()
        self._revisions.write(self._place.revisions(self.name))

    def _retire(self, number: int) -> None:
        running = self._predictors.pop(number)
        log("revision_retired", service=self.name, revision=running.process.state.revision)
        self._later(running.stop())

    # Transformer and logger

    def _start_transformer(self, command: Command) -> None:
        """Start it, or replace one that runs something else; one that is unchanged is left alone."""
        old = self._transformer
        if old is not None and old.process.command == command:
            return
        path = self._place.logs / f"{self.name}-transformer.log"
        process = ServerProcess(
            command, path, self._changed, self._transformer_port, nice=self._nice, service=self.name
        )
        self._transformer = Watched(process)
        self._replaced = old is not None
        self._later(self._swap_transformer(old, self._transformer))

    async def _swap_transformer(self, old: Watched | None, new: Watched) -> None:
        """The old one answers what it has and goes, then the new one starts: the journal has one writer."""
        async with self._swap:
            if old is not None:
                log("transformer_replaced", service=self.name)
                await old.process.connections.drained(DRAIN_S)
                await old.stop()
            new.begin(f"{LOOPBACK}:{self._splitter.port}")

    def _log_to(self, logger: Logger | None) -> None:
        if logger == self._logs_to:
            return
        if self.logger is not None:
            self._later(self.logger.close())
        self.logger = None if logger is None else EventLogger(logger, self.name)
        self._logs_to = logger

    _logs_to: Logger | None = None

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
