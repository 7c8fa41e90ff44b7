"""Requests that come while others are being scored go on together: one lookup, one computation, one call of the model.

Greedy, and without a timer: a request goes at once while fewer than IN_FLIGHT are under way; those that wait then are
the next ones. What a client asked for itself (a version, a trial, less time, a trace of its own) is scored alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from millrace.inputs import Requests
from millrace.observe.progress import log
from serving.transformer.context import Context
from serving.transformer.core import Part, Prepared
from serving.transformer.greedy import take
from serving.transformer.refreshed import Keys

IN_FLIGHT: Final = 2
"""One is computed here while another one is at the predictor."""
MAX_ROWS: Final = 64
"""Of requests that go together: what the predictor scores in one run."""

Answer = tuple[Prepared, list[Part]]
Score = Callable[[Requests, Keys, Context], Awaitable[Answer]]


@dataclass(slots=True, eq=False)
class _Waiting:
    requests: Requests
    keys: Keys
    context: Context
    answer: asyncio.Future[Answer]


class Gather:
    """`score` is what is done for one request, and for several as for one."""

    def __init__(self, score: Score) -> None:
        self._score = score
        self._waiting: list[_Waiting] = []
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def score(self, requests: Requests, keys: Keys, context: Context) -> Answer:
        """The request's own part of what came of it; raises what `score` raises."""
        if context.alone or len(requests) >= MAX_ROWS:
            return await self._score(requests, keys, context)
        if self._under_way < IN_FLIGHT:
            return await self._at_once(requests, keys, context)

        waiting = _Waiting(requests, keys, context, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await waiting.answer
        finally:
            if waiting in self._waiting:  # given up before its turn
                self._waiting.remove(waiting)

    async def _at_once(self, requests: Requests, keys: Keys, context: Context) -> Answer:
        self._under_way += 1
        try:
            return await self._score(requests, keys, context)
        finally:
            self._under_way -= 1
            self._next()

    def _next(self) -> None:
        while self._waiting and self._under_way < IN_FLIGHT:
            self._under_way += 1
            batch = take(self._waiting, lambda item: len(item.requests), MAX_ROWS)
            task = asyncio.create_task(self._together(batch))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._under_way -= 1
        self._next()

    async def _together(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._answers(batch)
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            if len(batch) > 1:
                log("scored_apart", requests=len(batch), error=repr(error))
                await asyncio.gather(*(self._together([item]) for item in batch))
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for item, answer in zip(batch, answers, strict=True):
            if not item.answer.done():
                item.answer.set_result(answer)

    async def _answers(self, batch: Sequence[_Waiting]) -> list[Answer]:
        """Of each request its part; several are given as long as the last of them may take."""
        first = batch[0]
        if len(batch) == 1:
            return [await self._score(first.requests, first.keys, first.context)]

        requests = Requests.joined([item.requests for item in batch])
        keys = {entity: [key for item in batch for key in item.keys[entity]] for entity in first.keys}
        context = dataclasses.replace(first.context, ends=max(item.context.ends for item in batch))
        async with asyncio.timeout(context.left_s()):
            prepared, parts = await self._score(requests, keys, context)
        return apart(prepared, parts, [len(item.requests) for item in batch])


def apart(prepared: Prepared, parts: Sequence[Part], sizes: Sequence[int]) -> list[Answer]:
    """What came of several requests that were scored together, request by request; `sizes` are their rows."""
    found = []
    start = 0
    for size in sizes:
        end = start + size
        theirs = [mine for part in parts if (mine := _rows_of(part, start, end)) is not None]
        found.append((_prepared_of(prepared, start, end), theirs))
        start = end
    return found


def _prepared_of(prepared: Prepared, start: int, end: int) -> Prepared:
    features, history = prepared.inputs
    inputs = features[start:end], None if history is None else history[start:end]
    return Prepared(inputs, prepared.states.part(start, end), [], prepared.degraded, prepared.unseen[start:end])


def _rows_of(part: Part, start: int, end: int) -> Part | None:
    """The part's rows of one request, counted from its first; None where it has none of them."""
    places = [place for place, row in enumerate(part.rows) if start <= row < end]
    if not places:
        return None

    scored = part.scored
    mine = dataclasses.replace(
        scored,
        outputs={name: values[places] for name, values in scored.outputs.items()},
        stages=[scored.stages[place] for place in places] if scored.stages else (),
    )
    return dataclasses.replace(part, rows=[part.rows[place] - start for place in places], scored=mine)
