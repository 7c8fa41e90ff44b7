"""KServe's logger: every answered request and its answer as CloudEvents to a sink, in the background.

Binary mode, types and headers as KServe's agent sends them; only answers with 200 are logged. The queue is bounded: a
sink that is slow or away costs events, which are counted, and never an answer.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from millrace.observe.progress import log
from serving.local.manifest import Logger

QUEUE_EVENTS: Final = 2000
AT_ONCE: Final = 4
RETRY_S: Final = 1.0
ATTEMPTS: Final = 5
TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    kind: str
    body: bytes
    content_type: str


class EventLogger:
    """Posts events of one service; `exchanged` never waits."""

    def __init__(self, logger: Logger, service: str) -> None:
        self.logger = logger
        self._service = service
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), trust_env=False)
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._tasks = [asyncio.create_task(self._send_forever()) for _ in range(AT_ONCE)]
        self.dropped = 0

    def exchanged(
        self, headers: Mapping[str, str], request: bytes, answer: bytes, content_types: tuple[str, str]
    ) -> None:
        """Take a request and its answer along; the oldest events give way when the queue is full."""
        identity = headers.get("ce-id") or str(uuid.uuid4())
        for kind, body, content_type in zip(("request", "response"), (request, answer), content_types, strict=True):
            if self.logger.mode in ("all", kind):
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
        await self._session.close()

    async def _send_forever(self) -> None:
        while True:
            await self._wake.wait()
            if not self._queue:
                self._wake.clear()
                continue
            await self._send(self._queue.popleft())

    async def _send(self, event: Event) -> None:
        """Post one event; again a few times while the sink refuses, then it is dropped."""
        reason = ""
        for attempt in range(ATTEMPTS):
            try:
                headers = self._headers(event)
                async with self._session.post(self.logger.url, data=event.body, headers=headers) as answer:
                    if answer.status < 500 and answer.status != 429:
                        return
                    reason = f"status {answer.status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                reason = repr(error)
            await asyncio.sleep(RETRY_S * (attempt + 1))
        self.dropped += 1
        log("event_dropped", sink=self.logger.url, reason=reason)

    def _headers(self, event: Event) -> dict[str, str]:
        return {
            "content-type": event.content_type,
            "ce-specversion": "1.0",
            "ce-id": event.id,
            "ce-type": f"org.kubeflow.serving.inference.{event.kind}",
            "ce-source": f"http://localhost/{self._service}",
            "ce-inferenceservicename": self._service,
            "ce-namespace": "local",
        }
