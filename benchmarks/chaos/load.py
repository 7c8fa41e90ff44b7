"""Clients that ask at a steady rate, send a request again until it is answered, and keep what they were told.

A request keeps its id, its events and their times from try to try, so that whatever was done twice can be seen.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from random import Random
from typing import Any, Final

from benchmarks.fuzz.client import Address, Connection
from millrace.installed import Workload
from millrace.requests import TIME, RequestFormat

PAUSE_S: Final = 0.05
"""Before a request is sent again."""
GIVE_UP_S: Final = 180.0
"""A request that has no answer for so long never gets one."""
MOST_ROWS: Final = 3
"""Events of a request."""


class Wrong(Exception):
    """An answer of another's, or a refusal of a request that is right."""


@dataclass(slots=True)
class Asked:
    """One request, and how it went."""

    request_id: str
    phase: str
    rows: list[dict[str, Any]]
    sent_at: float
    answered_at: float | None = None
    failures: int = 0
    scores: list[float] = field(default_factory=list)

    @property
    def waited_s(self) -> float:
        """From the first try to the answer."""
        return (self.answered_at or time.monotonic()) - self.sent_at


@dataclass
class Load:
    """`async with` it; `asked` grows until the block has ended and everything under way is answered or given up."""

    workload: Workload
    model: str
    address: Address
    headers: Mapping[str, str]
    seed: int
    rate: float
    """Requests a second, of all clients together."""
    clients: int
    entities: int
    """Each entity is asked of by every client."""
    timeout_s: float
    phase: str = "before"
    asked: list[Asked] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    why: Counter[str] = field(default_factory=Counter)
    """How failed tries ended."""

    def __post_init__(self) -> None:
        self._ids = count(time.time_ns())
        self._run = f"chaos-{self.seed}-{next(self._ids)}"
        self._score = self.workload.exchange.ANSWER["score"]
        self._event_id = self.workload.schema.EVENT_ID
        self._keys = _keys(self.workload)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, number: int) -> None:
        random, pause = Random(f"{self.seed}/{number}"), self.clients / self.rate
        due = time.monotonic() + random.uniform(0, pause)
        line = _Line(self.address)
        while not self._stop.is_set():
            try:
                await asyncio.wait_for(self._stop.wait(), max(due - time.monotonic(), 0))
                break
            except TimeoutError:
                await self._until_answered(self._make(random), line)
                due = max(due + pause, time.monotonic())  # what an outage kept back is not sent all at once
        line.close()

    def _make(self, random: Random) -> Asked:
        rows = [self._row(random) for _ in range(random.randint(1, MOST_ROWS))]
        asked = Asked(f"{self._run}-{len(self.asked)}", self.phase, rows, time.monotonic())
        self.asked.append(asked)
        return asked

    def _row(self, random: Random) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        one = f"{self._run}-{random.randrange(self.entities)}"
        mine = {self._event_id: next(self._ids), TIME: now, **dict.fromkeys(self._keys, one)}
        return {**self.workload.exchange.EXAMPLE, **mine}

    async def _until_answered(self, asked: Asked, line: _Line) -> None:
        body = json.dumps({"instances": asked.rows}).encode()
        head = self._head(asked, len(body))
        while asked.waited_s < GIVE_UP_S:
            try:
                async with asyncio.timeout(self.timeout_s):
                    status, text = await line.ask(head + body)
                if self._took(asked, status, text):
                    return
                self.why[f"status {status}"] += 1
            except Wrong as error:
                self.wrong.append(str(error))
                return
            except (TimeoutError, OSError, ValueError) as error:
                self.why[type(error).__name__] += 1
                line.close()
            asked.failures += 1
            await asyncio.sleep(PAUSE_S)

    def _took(self, asked: Asked, status: int, text: bytes) -> bool:
        """Whether the request is acknowledged; raises Wrong."""
        if status in (429, 500, 502, 503, 504):
            return False
        if status != 200:
            raise Wrong(f"{status} to {asked.request_id}: {text[:200]!r}")
        answers = json.loads(text)["predictions"]
        ids = [row[self._event_id] for row in asked.rows]
        if [answer[self._event_id] for answer in answers] != ids:
            raise Wrong(f"{asked.request_id} asked of {ids} and was answered {text[:200]!r}")
        asked.answered_at = time.monotonic()
        asked.scores = [answer[self._score] for answer in answers]
        return True

    def _head(self, asked: Asked, length: int) -> bytes:
        headers = {
            "host": str(self.address),
            "content-type": "application/json",
            "content-length": str(length),
            "x-request-id": asked.request_id,
            **self.headers,
        }
        lines = [f"POST /v1/models/{self.model}:predict HTTP/1.1", *(f"{n}: {value}" for n, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()


class _Line:
    """A client's connection, opened when it is needed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._open: Connection | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body; raises OSError."""
        if self._open is None or self._open.reader.at_eof():
            self.close()
            self._open = await Connection.to(self._address)
        await self._open.send([request])
        answer = await self._open.read("POST")
        if "close" in answer.headers.get("connection", "").lower():
            self.close()
        return answer.status, answer.body

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None


def _keys(workload: Workload) -> list[str]:
    """What a request names of the entity whose recent events are kept; nothing where no view is recent."""
    view = workload.recent
    if view is None:
        return []
    asked = {entity.name: entity.key for entity in RequestFormat.of(workload).asked}
    entity = workload.entity(view.entity)
    return [asked[name] for name in (entity.parts or (entity.name,))]
