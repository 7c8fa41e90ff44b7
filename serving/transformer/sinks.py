"""Delivery of prediction events: bounded, in the background, never in the way of an answer.

`Events.put` only remembers; a task encodes what has gathered and hands it to every sink; each sink has a queue and a
task of its own, so that one that is away keeps nobody else waiting. What does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from millrace.errors import ConfigError, Unavailable
from millrace.observe.progress import log
from millrace.observe.telemetry import EVENTS_DROPPED
from serving.connections import Connections, Response
from serving.transformer.events import CONTENT_TYPE, Record, encode

GATHER_S: Final = 0.1
"""Events gather this long, so that a batch is worth a request."""
BATCH_ROWS: Final = 100
"""Events of one request to a sink: about 100 kB, encoded in about a millisecond."""
MAX_WAITING_ROWS: Final = 20_000
"""Events that wait to be encoded, and again at each sink: about 25 MB."""
TIMEOUT_S: Final = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
REFUSED: Final = frozenset(range(400, 500)) - {408, 425, 429}
"""Answers that would be the same if the batch was sent again."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sink listens."""

    host: str
    port: int
    path: bytes

    @classmethod
    def of(cls, url: str) -> Address:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"MILLRACE_EVENT_SINKS has {url!r}; wanted http://host[:port][/path]")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, parts.port or 80, path.encode())


class Sink:
    """One receiver: a bounded queue of batches, sent in order, again with growing pauses while it is away."""

    def __init__(self, url: str) -> None:
        address = Address.of(url)
        self.name = f"{address.host}:{address.port}"
        self._path = address.path
        self._connections = Connections(address.host, address.port, limit=1)
        self._batches: deque[tuple[bytes, int]] = deque()
        self._rows = 0
        self._arrived, self._hurry = asyncio.Event(), asyncio.Event()
        self._dropped = EVENTS_DROPPED.labels(self.name)
        self._away_since: float | None = None

    def __len__(self) -> int:
        """Events that are not delivered yet."""
        return self._rows

    def put(self, body: bytes, rows: int) -> None:
        if self._rows + rows > MAX_WAITING_ROWS:
            self.drop(rows)
            return
        self._batches.append((body, rows))
        self._rows += rows
        self._arrived.set()

    def drop(self, rows: int) -> None:
        self._dropped.inc(rows)

    def hurry(self) -> None:
        """The process ends: no long pauses any more."""
        self._hurry.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        pause = FIRST_PAUSE_S
        while True:
            await self._arrived.wait()
            while self._batches:
                body, rows = self._batches[0]
                wait = await self._send(body, rows, pause)
                if wait is None:
                    self._batches.popleft()
                    self._rows -= rows
                    pause = FIRST_PAUSE_S
                else:
                    pause = min(2 * pause, LONGEST_PAUSE_S)
                    await self._pause(wait)
            self._arrived.clear()

    def close(self) -> None:
        self._connections.close()
        if self._rows:
            log("events_lost_at_the_end", sink=self.name, events=self._rows)
            self.drop(self._rows)

    async def _send(self, body: bytes, rows: int, pause: float) -> float | None:
        """None when the sink took the batch or refused it for good, else how long to wait before the next try."""
        try:
            answer = await self._connections.request(
                b"POST", self._path, body, ((b"content-type", CONTENT_TYPE),), timeout_s=TIMEOUT_S
            )
        except Unavailable as error:
            return self._away(str(error), pause)
        if answer.status < 300:
            self._back()
            return None
        if answer.status in REFUSED:
            log("events_refused", sink=self.name, status=answer.status, events=rows, answer=_text(answer))
            self.drop(rows)
            return None
        return self._away(f"status {answer.status}: {_text(answer)}", max(pause, _retry_after_s(answer)))

    def _away(self, why: str, pause: float) -> float:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log("event_sink_away", sink=self.name, error=why, waiting=self._rows)
        return pause * random.uniform(0.5, 1.0)

    def _back(self) -> None:
        if self._away_since is not None:
            log("event_sink_back", sink=self.name, away_s=round(time.monotonic() - self._away_since, 1))
            self._away_since = None

    async def _pause(self, wait: float) -> None:
        if self._hurry.is_set():
            await asyncio.sleep(min(wait, FIRST_PAUSE_S))
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), wait)


class Events:
    """Records in, events at every sink; costs nothing when there are no sinks."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._sinks = [Sink(url) for url in urls]
        self._records: deque[Record] = deque()
        self._rows = 0
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """Events that some sink still lacks."""
        return self._rows + max((len(sink) for sink in self._sinks), default=0)

    def start(self) -> None:
        if self._sinks:
            self._tasks = [asyncio.create_task(work) for work in (self._gather(), *(s.run() for s in self._sinks))]

    def put(self, record: Record) -> None:
        """Remember a record; never waits, never fails."""
        if not self._sinks:
            return
        if self._rows + len(record) > MAX_WAITING_ROWS:
            for sink in self._sinks:
                sink.drop(len(record))
            return
        self._records.append(record)
        self._rows += len(record)
        self._arrived.set()

    async def finish(self, timeout_s: float) -> None:
        """Deliver what is there for so long; what is left then is counted as dropped."""
        if not self._sinks:
            return
        for sink in self._sinks:
            sink.hurry()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while len(self):
                    await asyncio.sleep(0.02)
        for task in self._tasks:
            task.cancel()
        for sink in self._sinks:
            sink.drop(self._rows)
            sink.close()

    async def _gather(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHER_S)
            self._arrived.clear()
            while self._records:
                await self._hand_over()

    async def _hand_over(self) -> None:
        """One batch worth of records, encoded once for all sinks; answers go on between two batches."""
        records, rows = [], 0
        while self._records and rows < BATCH_ROWS:
            records.append(self._records.popleft())
            rows += len(records[-1])
        try:
            for body, count in encode(records, BATCH_ROWS):
                for sink in self._sinks:
                    sink.put(body, count)
                rows -= count
                self._rows -= count  # with the sinks now; before anything else may run, so that none counts twice
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - a record that cannot be encoded must not stop the next one
            log("events_not_encoded", error=repr(error), events=rows)
            for sink in self._sinks:
                sink.drop(rows)
            self._rows -= rows


def _text(answer: Response) -> str:
    return answer.body[:200].decode(errors="replace")


def _retry_after_s(answer: Response) -> float:
    text = answer.header(b"retry-after") or b""
    return min(float(text), LONGEST_PAUSE_S) if text.isdigit() else 0.0
