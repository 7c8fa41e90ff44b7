"""The shadow: a model that scores what the champion scored, after the answer, and decides nothing.

It gets the prepared inputs (states are shared), many rows in one request, from a bounded queue. It is
never waited for; what it is too slow for is dropped and counted, what it fails at is counted and not tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from millrace.events.prediction import SHADOW
from millrace.installed import Workload
from millrace.observe.progress import log
from millrace.observe.telemetry import SHADOW_DROPPED, SHADOW_FAILURES
from serving.transformer.core import Choice, Inputs, Part, Scored, joined
from serving.transformer.events import Record
from serving.transformer.fit import require_fit
from serving.transformer.greedy import take
from serving.transformer.predictor import Predictor

MAX_WAITING_ROWS: Final = 4096
"""Rows that wait: 5 MB of histories at N = 64."""
BATCH_ROWS: Final = 128
TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class _Mirrored:
    record: Record
    inputs: Inputs

    def __len__(self) -> int:
        return len(self.inputs[0])


class Shadow:
    """`mirror` remembers, `run` asks; `put` gets the records of what the shadow said."""

    def __init__(
        self,
        predictor: Predictor,
        workload: Workload,
        history_length: int,
        put: Callable[[list[Record]], Awaitable[None]],
    ) -> None:
        self._predictor, self._put = predictor, put
        self._workload, self._history_length = workload, history_length
        self._waiting: deque[_Mirrored] = deque()
        self._rows = 0
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        """Rows that wait or are with the shadow."""
        return self._rows

    def mirror(self, record: Record, inputs: Inputs) -> None:
        """All rows of an answered request; never waits, never fails."""
        mirrored = _Mirrored(record, inputs)
        if self._rows + len(mirrored) > MAX_WAITING_ROWS:
            SHADOW_DROPPED.inc(len(mirrored))
            return
        self._waiting.append(mirrored)
        self._rows += len(mirrored)
        self._arrived.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := take(self._waiting, len, BATCH_ROWS):
                try:
                    await self._ask(batch)
                except Exception as error:  # noqa: BLE001 - whatever ails the shadow, the answers are out already
                    SHADOW_FAILURES.inc(sum(map(len, batch)))
                    log("shadow_failed", rows=sum(map(len, batch)), error=str(error))
                self._rows -= sum(map(len, batch))

    async def finish(self, timeout_s: float) -> None:
        """Let it answer what waits, for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._rows:
                    await asyncio.sleep(0.02)

    async def close(self) -> None:
        """`run` is cancelled."""
        await self._predictor.close()

    async def _ask(self, batch: list[_Mirrored]) -> None:
        inputs = joined([item.inputs for item in batch])
        began = time.perf_counter()
        scored = await self._predictor.score(Choice([inputs]), timeout_s=TIMEOUT_S)
        require_fit(self._workload, scored, self._history_length)
        took_ms = (time.perf_counter() - began) * 1e3
        start, records = 0, []
        for item in batch:
            records.append(self._record(item, scored, slice(start, start + len(item)), took_ms))
            start += len(item)
        await self._put(records)

    def _record(self, item: _Mirrored, scored: Scored, place: slice, took_ms: float) -> Record:
        """The answered request's record, with what the shadow said; its latency is that of the shadow's call."""
        outputs = {name: values[place] for name, values in scored.outputs.items()}
        said = replace(scored, outputs=outputs, stages=scored.stages[place])
        part = Part(range(len(item)), said, SHADOW, self._predictor.model_name)
        return replace(item.record, part=part, latency_ms=took_ms)
