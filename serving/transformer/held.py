"""The generations of state that this process makes inputs from: opened when a model that reads one answers, kept while
one does.

While traffic is split between revisions that read different ones, a request brings inputs of all that are held, and the
predictor takes its own (`serving.reads`). Which there are, only the predictors say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from millrace.errors import MillraceError, Unavailable
from millrace.installed import Workload
from millrace.observe.progress import log
from serving.reads import Reads
from serving.transformer.memory import Memory
from serving.transformer.store import Lookups

RETIRE_S: Final = 600.0
"""A generation that no model has read for so long, while others were, is let go."""


@dataclass(slots=True, eq=False)
class Held:
    """One generation: how its states are looked up, and how events are remembered."""

    reads: Reads
    workload: Workload
    lookups: Lookups
    memory: Memory | None
    answered: float = 0.0
    """When a model last took inputs of it, by the clock of `Generations`."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self) -> None:
        """Start what runs beside answers."""
        work = [] if self.memory is None else self.memory.work()
        self.tasks = [asyncio.create_task(one) for one in work]

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Generations:
    """Those that are held, in the order in which they were opened; `open_` opens one, in a thread."""

    def __init__(self, open_: Callable[[Reads], Held], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._open, self._clock = open_, clock
        self._held: dict[str, Held] = {}
        self._opening: dict[str, asyncio.Task[Held]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Held]:
        return iter(tuple(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def knows(self, reads: Reads) -> bool:
        """Whether a generation is held."""
        return reads.generation in self._held

    def add(self, held: Held) -> None:
        """Hold one that is open."""
        held.answered = self._clock()
        held.begin()
        self._held[held.reads.generation] = held
        log("generation_held", generation=held.reads.generation, feature_service=held.reads.feature_service)

    def begin(self, reads: Reads) -> asyncio.Task[Held]:
        """Open a generation beside what is held; the task is the same while one is on its way."""
        name = reads.generation
        if name not in self._opening:
            task = asyncio.create_task(self._opened(reads))
            task.add_done_callback(_seen)
            self._opening[name] = task
        return self._opening[name]

    async def wait(self, reads: Reads, timeout_s: float) -> None:
        """Until one is held; raises Unavailable where it cannot be opened, TimeoutError where that takes long."""
        if reads.generation in self._held:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self.begin(reads))
        except MillraceError as error:
            raise Unavailable(f"the state that the model reads is not here: {error}") from error

    def answered(self, generation: str) -> None:
        """A model has taken inputs of this one; those that none has for long are let go."""
        now = self._clock()
        if generation in self._held:
            self._held[generation].answered = now
        for name, held in tuple(self._held.items()):
            if len(self._held) > 1 and now - held.answered > RETIRE_S:
                del self._held[name]
                log("generation_let_go", generation=name)
                task = asyncio.create_task(held.end())
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        for task in (*self._opening.values(), *self._leaving):
            task.cancel()
        await asyncio.gather(*(held.end() for held in self._held.values()))

    async def _opened(self, reads: Reads) -> Held:
        try:
            held = await asyncio.to_thread(self._open, reads)
            self.add(held)
        except MillraceError as error:
            log("generation_refused", generation=reads.generation, error=str(error))
            raise
        finally:
            del self._opening[reads.generation]
        return held


def _seen(task: asyncio.Task[Held]) -> None:
    """Whoever waits gets the error; where nobody does it was logged."""
    if not task.cancelled():
        task.exception()
