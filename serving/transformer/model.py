"""KServe's model of the transformer: events in, answers out.

It looks their entities up in the generation of state that the model reads, computes the model's inputs with the code
that trained it, has them scored, and remembers an event before it answers. What it says of an answer is on the stream
before the answer goes out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from millrace.errors import Unavailable
from millrace.inputs import Requests, States
from millrace.installed import Workload
from millrace.observe.progress import log
from millrace.observe.telemetry import (
    DEADLINES_EXCEEDED,
    LOOKUP_FAILURES,
    LOOKUP_SECONDS,
)
from millrace.observe.tracing import span
from millrace.settings import Settings
from serving.lean import Headers
from serving.protocol import V2Answer, V2Request, decode_v1
from serving.reads import OtherState, Reads
from serving.server import HotModel
from serving.transformer import core
from serving.transformer.answers import Door
from serving.transformer.arms import Arms
from serving.transformer.breaker import Breaker
from serving.transformer.context import Context, DeadlineExceeded
from serving.transformer.events import Events, Record
from serving.transformer.figures import Figures
from serving.transformer.gather import Gather
from serving.transformer.held import Generations, Held
from serving.transformer.identity import naming
from serving.transformer.predictor import PREVIOUS_REVISION
from serving.transformer.refreshed import Keys
from serving.transformer.shadow import Shadow
from serving.transformer.turns import Turns

LOOKUP_SHARE: Final = 0.5
"""Of the time that is left, what the lookup may take: an answer from defaults needs the rest."""
FLUSH_S: Final = 1.0
"""What the shadow may delay the end of the process."""
LEARN_S, LEARN_PAUSE_S = 10.0, 0.1
"""How long a start waits for a predictor that says what it reads, and between two questions."""

Made = tuple[Held, core.Prepared]
"""A request's inputs, and the generation that they are made from."""


class Transformer(HotModel):
    """KServe's model in front of the predictor."""

    server = "transformer"

    def __init__(
        self,
        name: str,
        workload: Workload,
        generations: Generations,
        options: Settings,
        arms: Arms,
        events: Events,
        shadow: Shadow | None = None,
    ) -> None:
        super().__init__(name)
        self._workload, self._door = workload, Door(workload, strict=options.strict_requests)
        self.inputs, self.outputs = self._door.inputs, self._door.outputs
        self.passes_over_others = not options.strict_requests
        self._arms, self._events, self._shadow = arms, events, shadow
        self._generations, self._breaker = generations, Breaker()
        self._turns = Turns()
        self._gather, self._figures = Gather(self._score), Figures()
        self._key = options.pseudonym_secret()
        self._accept_pseudonyms = options.accept_pseudonyms
        self._history_length = options.history_length
        self._lookup_timeout_s = options.lookup_timeout_s
        self._future_tolerance_s = options.future_tolerance_s
        self._deadline_s = options.deadline_ms / 1e3
        self._explained_at_once = core.explained_at_once(workload)
        self._tasks: list[asyncio.Task[None]] = []
        self.ready = True

    async def started(self) -> None:
        if self._shadow is not None:
            self._tasks.append(asyncio.create_task(self._shadow.run()))
        if not self._generations:
            await self._learn()

    async def _learn(self) -> None:
        """Open what the model reads, if it answers by now; else the first request does."""
        try:
            async with asyncio.timeout(LEARN_S):
                while (reads := await self._reads()) is None:
                    await asyncio.sleep(LEARN_PAUSE_S)
            await self._generations.wait(reads, LEARN_S)
        except (Unavailable, TimeoutError) as error:
            log("state_unknown", error=str(error) or "the predictor does not answer yet", waited_s=LEARN_S)

    async def _reads(self) -> Reads | None:
        """What the model reads; None where it does not answer."""
        try:
            return await self._arms.reads(LEARN_S)
        except Unavailable:
            return None

    async def serves(self, version: str) -> bool:
        return await self._arms.serves(version)

    async def answer_v1(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:
        context = Context.of(headers, self._deadline_s)
        now_us = _now_us()
        requests = self._door.format.from_rows(decode_v1(document), now_us)
        return {"predictions": await self._answer(requests, headers, context, now_us)}

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer:
        context = Context.of(headers, self._deadline_s)
        now_us = _now_us()
        return self._door.tensors(await self._answer(self._door.read(request, now_us), headers, context, now_us))

    async def _answer(
        self, requests: Requests, headers: Headers, context: Context, now_us: int
    ) -> list[dict[str, Any]]:
        self._door.format.require_past(requests, now_us, self._future_tolerance_s)
        keys = self._door.format.keys(requests, naming(headers, self._key, accept=self._accept_pseudonyms))
        async with _in_time(context):
            prepared, parts = await self._gather.score(requests, keys, context)
        records = self._records(requests, keys, prepared, parts, context)
        safe = self._events.begin(records)
        why = await self._explain(requests, prepared, parts, context)
        rows = self._door.answers(requests, parts, why, prepared.degraded, prepared.unseen)
        if not safe.done():
            async with _in_time(context):
                await asyncio.shield(safe)
        safe.result()  # raises Unavailable where the stream refuses the events: no answer then
        self._tell(records, prepared, context)
        return rows

    async def _score(self, requests: Requests, keys: Keys, context: Context) -> tuple[core.Prepared, list[core.Part]]:
        """Lookup, inputs, scores; the events are remembered when this returns, but those of a trial."""
        recent = self._workload.recent
        if recent is None or context.dry_run:
            prepared, parts = await self._scored(requests, keys, context)
            return self._taken(prepared, parts), parts

        async with self._turns.of(keys[recent.entity]):
            prepared, parts = await self._scored(requests, keys, context)
            await self._remember(prepared)
        return self._taken(prepared, parts), parts

    async def _scored(self, requests: Requests, keys: Keys, context: Context) -> tuple[list[Made], list[core.Part]]:
        """Inputs from every generation that is held, and what the model that reads one of them says.

        A model that reads another one is met when traffic begins to move: that is opened meanwhile, and the revision
        that was rolled out before answers. Where it cannot, the request waits.
        """
        if not self._generations:
            await self._generations.wait(await self._arms.reads(context.left_s()), context.left_s())
        asked = context
        while True:
            prepared = [(held, await self._prepared(held, requests, keys, context)) for held in self._generations]
            generations = [held.reads.generation for held, _ in prepared]
            choice = core.Choice([made.inputs for _, made in prepared], generations)
            try:
                parts = await self._arms.score(choice, requests, keys, asked)
            except OtherState as other:
                if asked is context and not self._generations.knows(other.reads):
                    self._generations.begin(other.reads)
                    asked = context.with_header(PREVIOUS_REVISION)
                else:
                    await self._generations.wait(other.reads, context.left_s())
                    asked = context
                continue
            self._generations.answered(parts[-1].scored.reads.generation)
            return prepared, parts

    def _taken(self, prepared: list[Made], parts: list[core.Part]) -> core.Prepared:
        """What the champion's model took its inputs from."""
        generation = parts[-1].scored.reads.generation
        return next((made for held, made in prepared if held.reads.generation == generation), prepared[0][1])

    async def _prepared(self, held: Held, requests: Requests, keys: Keys, context: Context) -> core.Prepared:
        found = await self._lookup(held, keys, len(requests), context)
        return core.prepare(held.workload, requests, keys, found, self._history_length)

    async def _remember(self, prepared: list[Made]) -> None:
        """Every event, once in each place where generations look for it."""
        places = {held.memory.place: (held.memory, made) for held, made in prepared if held.memory is not None}
        await asyncio.gather(*(memory.remember(made.entries) for memory, made in places.values()))

    async def _lookup(self, held: Held, keys: Keys, rows: int, context: Context) -> States | None:
        """The store's answer, or None when it has none in time: the request is then answered from defaults."""
        if not self._breaker.allows():
            return None
        began = time.perf_counter()
        try:
            timeout_s = min(self._lookup_timeout_s, LOOKUP_SHARE * context.left_s())
            with span("store.lookup"):
                found = await held.lookups.read(keys, rows, timeout_s)
        except DeadlineExceeded:
            raise
        except Exception as error:  # noqa: BLE001 - whatever ails the store, the client gets an answer
            LOOKUP_FAILURES.inc()
            log("lookup_failed", error=repr(error), rows=rows)
            self._breaker.failed(error)
            return None
        self._breaker.succeeded()
        LOOKUP_SECONDS.observe(time.perf_counter() - began)
        return found

    async def _explain(
        self, requests: Requests, prepared: core.Prepared, parts: list[core.Part], context: Context
    ) -> dict[int, list[dict[str, Any]]]:
        """Reasons of the rows that get some.

        None when the predictor fails the second time, with a line in the log, or when another version answers then.
        """
        why: dict[int, list[dict[str, Any]]] = {}
        for part in parts:
            places = core.explained_rows(part.scored)
            for start in range(0, len(places), self._explained_at_once):
                some = places[start : start + self._explained_at_once]
                rows = [part.rows[place] for place in some]
                inputs = core.explain_inputs(self._workload, requests, prepared, rows, self._history_length)
                try:
                    variants = await self._arms.variants(part, inputs, context)
                except Unavailable as error:
                    log("explanation_failed", error=str(error))
                    break
                if variants is None:
                    break
                why |= core.explain(self._workload, part.scored.scores[some].tolist(), rows, variants)
        return why

    def _records(
        self,
        requests: Requests,
        keys: Keys,
        prepared: core.Prepared,
        parts: list[core.Part],
        context: Context,
    ) -> list[Record]:
        at, latency_ms = datetime.now(UTC), context.elapsed_ms()
        features, degraded = prepared.inputs[0], prepared.degraded
        return [Record(self._door, context, at, latency_ms, requests, keys, features, degraded, part) for part in parts]

    def _tell(self, records: list[Record], prepared: core.Prepared, context: Context) -> None:
        """Metrics and the shadow, once the answer is sure; a trial changes neither."""
        if context.dry_run:
            return

        for record in records:
            self._figures.scored(record.part, record.degraded)
        self._figures.unseen(prepared.unseen)
        if self._shadow is not None:
            self._shadow.mirror(records[-1], prepared.inputs)

    async def finished(self) -> None:
        """The last request is answered: let the shadow say what it has."""
        if self._shadow is not None:
            await self._shadow.finish(FLUSH_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._generations.close()
        await self._arms.close()
        if self._shadow is not None:
            await self._shadow.close()
        await self._events.finish()


@asynccontextmanager
async def _in_time(context: Context) -> AsyncIterator[None]:
    """Raise DeadlineExceeded when what is done here takes longer than the answer may."""
    try:
        async with asyncio.timeout(context.left_s()):
            yield
    except (TimeoutError, DeadlineExceeded) as error:
        DEADLINES_EXCEEDED.inc()
        raise context.exceeded() from error


def _now_us() -> int:
    return time.time_ns() // 1000
