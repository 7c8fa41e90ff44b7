"""KServe's logger: every answered request and its answer as CloudEvents to a sink, in the background.

Binary mode, types and headers as KServe's agent sends them; only answers with 200 are logged. The queue is bounded: a
sink that is slow or away costs events, which are counted, and never an answer.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from millrace.errors import Unavailable
from millrace.observe.progress import log
from serving.connections import Connections, Header
from serving.local.manifest import Logger

QUEUE_EVENTS: Final = 2000
AT_ONCE: Final = 4
RETRY_S: Final = 1.0
ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    kind: str
    body: bytes
    content_type: bytes


class EventLogger:
    """Posts events of one service; `exchanged` never waits."""

    def __init__(self, logger: Logger, service: str) -> None:
        parts = urlsplit(logger.url)
        self._mode = logger.mode
        self._service = service.encode()
        self._connections = Connections(parts.hostname or "", parts.port or 80)
        self._path = (parts.path or "/").encode()
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._tasks = [asyncio.create_task(self._send_forever()) for _ in range(AT_ONCE)]
        self.dropped = 0

    def exchanged(
        self, headers: list[Header], request: bytes, answer: bytes, content_types: tuple[bytes, bytes]
    ) -> None:
        """Take a request and its answer along; the oldest events give way when the queue is full."""
        given = next((value for name, value in headers if name == b"ce-id"), b"").decode("latin-1")
        identity = given or str(uuid.uuid4())
        for kind, body, content_type in zip(("request", "response"), (request, answer), content_types, strict=True):
            if self._mode in ("all", kind):
                if len(self._queue) >= QUEUE_EVENTS:
                    self._queue.popleft()
                    self.dropped += 1
                self._queue.append(Event(identity, kind, body, content_type))
        self._wake.set()

    async def close(self) -> None:
        """Give what is queued a moment, then stop."""
        for _ in range(100):
            if not self._queue:
                break
            await asyncio.sleep(0.02)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._connections.close()

    async def _send_forever(self) -> None:
        while True:
            await self._wake.wait()
            if not self._queue:
                self._wake.clear()
                continue
            await self._send(self._queue.popleft())

    async def _send(self, event: Event) -> None:
        """Post one event; again a few times while the sink refuses, then it is dropped."""
        for attempt in range(ATTEMPTS):
            try:
                answer = await self._connections.request(
                    b"POST", self._path, event.body, self._headers(event), timeout_s=5
                )
                if answer.status < 500 and answer.status != 429:
                    return
                reason = f"status {answer.status}"
            except Unavailable as error:
                reason = str(error)
            await asyncio.sleep(RETRY_S * (attempt + 1))
        self.dropped += 1
        log("event_dropped", sink=f"{self._connections.host}:{self._connections.port}", reason=reason)

    def _headers(self, event: Event) -> list[Header]:
        return [
            (b"content-type", event.content_type),
            (b"ce-specversion", b"1.0"),
            (b"ce-id", event.id.encode("latin-1")),
            (b"ce-type", f"org.kubeflow.serving.inference.{event.kind}".encode()),
            (b"ce-source", b"http://localhost/" + self._service),
            (b"ce-inferenceservicename", self._service),
            (b"ce-namespace", b"local"),
        ]
