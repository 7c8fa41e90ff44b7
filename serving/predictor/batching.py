"""Requests that arrive together are scored together: greedy batches over one model version, on one event loop.

Nothing waits for company. While a run of the graph is under way, whatever arrives queues up and becomes the next
batch; when nothing is under way, a request is run at once. `Batcher.score` needs no server: the transformer uses it too
where it holds the model itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import ModelFault, Unavailable
from millrace.observe import telemetry
from millrace.observe.tracing import CURRENT, OFF, Span
from millrace.registry.model_artifact import CACHE, STAGES, Floats, Outputs
from serving.predictor.cache import ScoreCache
from serving.predictor.core import Answer, Inputs, Scorer

INLINE_S: Final = 0.005
"""A run expected to be shorter happens in the event loop: handing it to a thread and back costs more than it frees."""
WAIT, RUN = "batch.wait", "graph.run"
"""Spans of a request's trace."""
SMOOTHING: Final = 0.1
"""Weight of the newest run in what runs are expected to take."""


class Overloaded(Unavailable):
    """More rows wait for the model than the queue takes; the client should come again later."""


@dataclass(slots=True)
class _Waiting:
    inputs: Inputs
    rows: int
    answer: asyncio.Future[Answer]
    span: Span
    queued_ns: int = field(default_factory=time.time_ns)


class Batcher:
    """Scores of one model version for many callers on one event loop; a wrong request fails alone."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        batch_rows: int = 64,
        batch_run_ms: float = 50.0,
        queue_rows: int = 2048,
        cache: ScoreCache | None = None,
        alone: Callable[[], bool] = lambda: False,
    ) -> None:
        """`alone` tells that no other request is under way: then one is run before it returns to the loop."""
        self.scorer = scorer
        self.waiting_rows = 0
        self._batch_rows, self._queue_rows, self._run_s = batch_rows, queue_rows, batch_run_ms / 1000
        self._cache = cache
        self._alone = (lambda: True) if batch_rows == 1 else alone
        self._queue: deque[_Waiting] = deque()
        self._busy = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._stages = [telemetry.PREDICTOR_ROWS.labels(name) for name in STAGES]
        self._expected_s = self.warm_up()

    async def score(self, *inputs: Floats) -> Answer:
        """features[B, F], and history[B, L … N, C] → outputs, stages[B]; raises InvalidInput, Overloaded."""
        inputs = self.scorer.prepare(*inputs)
        if self._cache is None:
            return await self._score(inputs)
        key = self._cache.key(*inputs)
        outputs = self._cache.get(key)
        if outputs is not None:
            rows = len(inputs[0])
            self._stages[CACHE].inc(rows)
            return outputs, np.full(rows, CACHE, np.uint8)
        outputs, stages = await self._score(inputs)
        self._cache.put(key, outputs)
        return outputs, stages

    def warm_up(self) -> list[float]:
        """Run batches of every size up to the largest; CPU seconds of each, by the bits of its number of rows."""
        artifact = self.scorer.artifact
        seconds = [0.0]
        for bits in range(self._batch_rows.bit_length()):
            inputs = artifact.blank(1 << bits)
            seconds.append(min(_seconds(artifact.run_full, *inputs) for _ in range(3)))
        return seconds

    async def _score(self, inputs: Inputs) -> Answer:
        rows = len(inputs[0])
        if not self._busy and self._expected(rows) <= INLINE_S and self._alone():
            return self._run_now(inputs)
        if self.waiting_rows and self.waiting_rows + rows > self._queue_rows:
            raise Overloaded(f"{self.waiting_rows} rows wait for the model; wanted at most {self._queue_rows}")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(inputs, rows, loop.create_future(), CURRENT.get())
        self._queue.append(waiting)
        self.waiting_rows += rows
        if not self._busy:
            self._busy = True
            loop.call_soon(self._next)  # after the requests that arrived with this one
        return await waiting.answer

    def _run_now(self, inputs: Inputs) -> Answer:
        telemetry.BATCH_ROWS.observe(len(inputs[0]))
        began_ns = time.time_ns()
        (answer,) = self._run([inputs])
        CURRENT.get().record(RUN, began_ns, time.time_ns())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _next(self) -> None:
        """Run the next batch, here when it is short, else in the thread; `_busy` until none is left."""
        batch = self._take()
        if not batch:
            self._busy = False
            return
        rows = sum(one.rows for one in batch)
        telemetry.BATCH_ROWS.observe(rows)
        inputs = [one.inputs for one in batch]
        began_ns = time.time_ns()
        loop = asyncio.get_running_loop()
        if self._expected(rows) <= INLINE_S:
            self._deliver(batch, self._run(inputs), began_ns)
            loop.call_soon(self._next)
        else:
            run = loop.run_in_executor(self._worker, self._run_in_thread, inputs)
            run.add_done_callback(lambda done: self._after(batch, done, began_ns))

    def _after(self, batch: Sequence[_Waiting], done: asyncio.Future[list[Answer | Exception]], began_ns: int) -> None:
        self._deliver(batch, done.result(), began_ns)
        self._next()

    def _take(self) -> list[_Waiting]:
        """From the front of the queue, as many as the bounds on rows and on milliseconds allow; at least one."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            more = self._queue[0].rows
            if batch and (rows + more > self._batch_rows or self._expected(rows + more) > self._run_s):
                break
            one = self._queue.popleft()
            self.waiting_rows -= more
            if not one.answer.done():  # its client may have gone
                batch.append(one)
                rows += more
        return batch

    def _run(self, batch: Sequence[Inputs]) -> list[Answer | Exception]:
        """What each request gets. A run that fails is repeated one by one, so that only the guilty fails."""
        rows = sum(len(one[0]) for one in batch)
        try:
            outputs, stages = self.scorer.run(*_joined(batch))
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            return [error] if len(batch) == 1 else self._apart(batch)
        if len(batch) > 1 and any(len(values) != rows for values in outputs.values()):
            return self._apart(batch)  # nobody can say whose is which

        self._count(stages)
        if len(batch) == 1:
            return [self._checked(outputs, stages, rows)]
        answers: list[Answer | Exception] = []
        end = 0
        for one in batch:
            begin, end = end, end + len(one[0])
            own = {name: values[begin:end] for name, values in outputs.items()}
            answers.append(self._checked(own, stages[begin:end], end - begin))
        return answers

    def _apart(self, batch: Sequence[Inputs]) -> list[Answer | Exception]:
        return [answer for one in batch for answer in self._run([one])]

    def _checked(self, outputs: Outputs, stages: NDArray[np.uint8], rows: int) -> Answer | Exception:
        """The answer; ModelFault (HTTP 500) where it is none, so that it counts as the model's failure."""
        fault = self.scorer.fault(outputs, rows)
        if fault:
            return ModelFault(f"the model answers {fault}. Roll it back, and look at its inputs.")
        return outputs, stages

    def _deliver(self, batch: Sequence[_Waiting], answers: Sequence[Answer | Exception], began_ns: int) -> None:
        _trace(batch, began_ns)
        for one, answer in zip(batch, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)

    def _expected(self, rows: int) -> float:
        """Seconds that a run of so many rows takes; linear past the largest that was measured."""
        bits = rows.bit_length()
        known = self._expected_s
        return known[bits] if bits < len(known) else known[-1] * rows / (1 << (len(known) - 2))

    def _run_in_thread(self, batch: Sequence[Inputs]) -> list[Answer | Exception]:
        """`_run`, which also learns what it takes: CPU time, which other work on the machine does not stretch."""
        start = time.thread_time()
        answers = self._run(batch)
        bits = sum(len(inputs[0]) for inputs in batch).bit_length()
        if bits < len(self._expected_s):
            self._expected_s[bits] += SMOOTHING * (time.thread_time() - start - self._expected_s[bits])
        return answers

    def _count(self, stages: NDArray[np.uint8]) -> None:
        for stage, rows in enumerate(np.bincount(stages).tolist()):
            if rows:
                self._stages[stage].inc(rows)


def _trace(batch: Sequence[_Waiting], began_ns: int) -> None:
    """In each request's trace: how long it waited, and the run that it shared with the others."""
    ended_ns = time.time_ns()
    for one in batch:
        if one.span is not OFF:
            one.span.record(WAIT, one.queued_ns, began_ns)
            one.span.record(RUN, began_ns, ended_ns, {"millrace.batch_requests": len(batch)})


def _joined(batch: Sequence[Inputs]) -> Inputs:
    if len(batch) == 1:
        return batch[0]
    return tuple(map(np.concatenate, zip(*batch, strict=True)))


def _seconds(work: Callable[..., Any], *arguments: Any) -> float:
    start = time.thread_time()
    work(*arguments)
    return time.thread_time() - start
