"""An InferenceService as running processes, brought to what its manifest says now without a failed request.

A predictor has the revision that was last rolled out and, while traffic moves, a newer one; Envoy stands before both.
What is new, a revision or a transformer, starts beside what is there, which answers until the new one is ready and is
drained afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from millrace.lake.atomic import sha256_text
from millrace.observe.progress import log
from serving.local.around import Around
from serving.local.manifest import LOOPBACK, Command, Logger, Rewrite, Service, component
from serving.local.processes import ServerProcess
from serving.local.replicas import Replicas
from serving.local.revisions import Revision, Revisions
from serving.local.routed import Routed
from serving.local.state import ProcessState, RevisionState, ServiceState

DRAIN_S: Final = 30.0


class RunningService:
    """An InferenceService's processes. `follow` brings them to a manifest; `routed` is how Envoy should see them."""

    def __init__(self, service: Service, around: Around, nice: int = 0) -> None:
        self.name = service.name
        self.service = service
        self.error = ""
        self._around, self._nice = around, nice
        self._revisions: Revisions | None = None
        self._predictors: dict[int, Replicas] = {}
        self._transformer: Replicas | None = None
        self._next: Replicas | None = None
        self._leaving: list[Replicas] = []
        self._background: set[asyncio.Task[None]] = set()
        self._predictor_port = around.ports.take(f"{self.name}-predictor")
        self._port, self._logged_port = self._predictor_port, 0
        self._take_ports(service)

    @property
    def ports(self) -> dict[str, int]:
        """DNS name → port, of the service as a whole and of its predictor."""
        return {self.name: self._port, f"{self.name}-predictor": self._predictor_port}

    @property
    def logger(self) -> tuple[Logger, int] | None:
        """Where the events of its requests go, and the port that a request goes on to."""
        logger = self.service.logger
        return None if logger is None else (logger, self._logged_port)

    @property
    def records(self) -> list[str]:
        """Names of the records of all its processes."""
        return [name for part in self._parts() for name in part.records]

    @property
    def routed(self) -> Routed | None:
        """None until it has been followed."""
        if self._revisions is None:
            return None
        stable, newest = (self._predictors[r.number] for r in (self._revisions.rolled_out, self._revisions.newest))
        transformer = self._transformer
        return Routed(
            name=self.name,
            port=self._port if transformer else self._predictor_port,
            predictor_port=self._predictor_port,
            timeout_s=self.service.timeout_s,
            stable=stable.name,
            canary=newest.name if newest is not stable and newest.was_ready else "",
            percent=self.service.canary_percent or 0,
            transformer=transformer.name if transformer else "",
            logged_port=self._logged_port if self.service.logger else 0,
            components=tuple(part.component for part in self._parts()),
        )

    async def follow(self, service: Service, rewrite: Rewrite) -> None:
        """Run what the manifest says now: traffic at once, a new revision when it is ready."""
        path = self._around.place.revisions(self.name)
        revisions = Revisions.following(self._revisions or Revisions.read(path), service.document)
        wanted = {r.number: r for r in (revisions.rolled_out, revisions.newest) if r.number not in self._predictors}
        commands = {
            number: component("predictor", revision.document, self._around.place.home, rewrite)
            for number, revision in wanted.items()
        }
        revisions.write(path)
        self._take_ports(service)
        self.service, self._revisions = service, revisions
        for number, command in commands.items():
            self._start_predictor(wanted[number], command)
        self.look()

    def look(self) -> None:
        """Roll out what is ready and wanted; retire what is no longer wanted."""
        revisions = self._revisions
        if revisions is None:
            return
        if self.service.transformer is not None:
            self._bring_transformer(self.service.transformer)
        newest = self._predictors[revisions.newest.number]
        if self.service.canary_percent in (None, 100) and newest.was_ready:
            self._roll_out()
        wanted = {self._revisions.rolled_out.number, self._revisions.newest.number} if self._revisions else set()
        for number in self._predictors.keys() - wanted:
            replicas = self._predictors.pop(number)
            log("revision_retired", service=self.name, revision=replicas.name)
            self._leave(replicas)
        self._around.changed()

    def state(self) -> ServiceState:
        running = [*self._predictors.values(), *self._transformers()]
        ready = bool(running) and self._next is None and all(item.all_ready for item in running)
        return ServiceState(
            name=self.name,
            kind=self.service.kind,
            manifest_hash=self.service.hash,
            model_version=self.service.model_version,
            state="ready" if ready else "starting",
            error=self.error,
            port=self._port,
            revisions=list(self._revision_states()),
        )

    def processes(self) -> list[ProcessState]:
        """The predictor that was last rolled out, the transformer, then a newer predictor, a newer transformer."""
        running = [replicas for _, replicas in self._in_order()]
        found = [*running[:1], *self._transformers()[:1], *running[1:], *self._transformers()[1:]]
        return [state for item in found for state in item.states]

    async def stop(self) -> None:
        """From the outside in: nobody waits for a predictor once the transformer has answered everybody."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(item.stop() for item in self._transformers()))
        await asyncio.gather(*(item.stop() for item in (*self._leaving, *self._predictors.values())))

    # Predictors

    def _in_order(self) -> Iterator[tuple[Revision, Replicas]]:
        """The revision last rolled out, then a newer one."""
        if self._revisions is None:
            return
        both = {item.number: item for item in (self._revisions.rolled_out, self._revisions.newest)}
        yield from ((item, self._predictors[number]) for number, item in both.items() if number in self._predictors)

    def _revision_states(self) -> Iterator[RevisionState]:
        found = list(self._in_order())
        percent = self.service.canary_percent or 0
        split = len(found) == 2 and found[1][1].was_ready
        for place, (revision, running) in enumerate(found):
            share = (100 - percent, percent)[place] if split else (100 if place == 0 and running.was_ready else 0)
            yield RevisionState(revision.name, revision.model_version, share, running.ready, running.failed_starts)

    def _start_predictor(self, revision: Revision, command: Command) -> None:
        log("revision_starts", service=self.name, revision=revision.name, model_version=revision.model_version)
        about = {"revision": revision.name, "model_version": revision.model_version}
        replicas = self._replicas(revision.name, revision.name, command, about)
        self._predictors[revision.number] = replicas
        replicas.begin()

    def _roll_out(self) -> None:
        revisions = self._revisions
        if revisions is None or revisions.newest.number == revisions.rolled_out.number:
            return
        log("rolled_out", service=self.name, revision=revisions.newest.name)
        self._revisions = revisions.rolled()
        self._revisions.write(self._around.place.revisions(self.name))

    # Transformer

    def _transformers(self) -> list[Replicas]:
        """The one that answers, then one that is to take its place."""
        return [item for item in (self._transformer, self._next) if item is not None]

    def _bring_transformer(self, command: Command) -> None:
        """Start it where it is another one than what runs, and let it answer once it is ready."""
        if self._next is not None and self._next.ready:
            self._leave(self._transformer)
            self._transformer, self._next = self._next, None
        if self._next is not None and self._next.command != command:
            self._leave(self._next)
            self._next = None
        if command in [item.command for item in self._transformers()]:
            return

        named = sha256_text(repr((command.args, sorted(command.env.items()))))[:8]
        name, log_name = f"{self.name}-transformer-{named}", f"{self.name}-transformer"
        if name in [item.name for item in self._leaving]:
            return  # wanted again while it leaves: once it has
        new = self._replicas(name, log_name, command, {})
        new.begin(f"{LOOPBACK}:{self._predictor_port}")
        answers_without = any(item.was_ready for item in self._predictors.values())
        if self._transformer is None and not answers_without:
            self._transformer = new
        else:
            log("transformer_replaced", service=self.name)
            self._next = new

    # Both

    def _take_ports(self, service: Service) -> None:
        """One for the transformer and one for the logger, where it has them; they stay as long as the service runs."""
        if service.transformer is not None and self._port == self._predictor_port:
            self._port = self._around.ports.take(self.name)
        if service.logger is not None and not self._logged_port:
            self._logged_port = self._around.ports.take(f"{self.name}-logged")

    def _parts(self) -> list[Replicas]:
        """Everything that runs, what is on its way out included."""
        return [*self._predictors.values(), *self._transformers(), *self._leaving]

    def _replicas(self, name: str, log_name: str, command: Command, about: dict[str, Any]) -> Replicas:
        """As many processes as are wanted of the command's role, and no more than its maxReplicas."""
        place = self._around.place
        wanted = self._around.replicas.get(command.role, 1)
        number = min(wanted, self.service.document["spec"][command.role].get("maxReplicas") or wanted)

        processes = []
        for replica in range(1, number + 1):
            suffix = f"-{replica}" if replica > 1 else ""
            paths = place.running / f"{name}{suffix}.json", place.logs / f"{log_name}{suffix}.log"
            own = about | {"service": self.name, "replica": replica}
            processes.append(ServerProcess(command, *paths, self.look, nice=self._nice, **own))
        return Replicas(name, processes)

    def _leave(self, replicas: Replicas | None) -> None:
        """To Envoy it is there until it is drained, but nothing leads to it."""
        if replicas is not None:
            self._leaving.append(replicas)
            self._later(self._drain(replicas))

    async def _drain(self, replicas: Replicas) -> None:
        """Wait for what is under way at one that leaves, then end it: Envoy sends nobody there any more."""
        self._around.changed()
        await self._around.data_plane.drained(replicas.name, DRAIN_S)
        await replicas.stop()
        self._leaving.remove(replicas)
        self.look()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
