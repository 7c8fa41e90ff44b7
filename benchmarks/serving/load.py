"""Load that ends by itself: a closed loop of c clients, or a given rate, over kept-open loopback connections."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.calls import Calls, Header

WARM_UP_S = 0.3
"""Before anything counts."""


@dataclass(frozen=True)
class Request:
    """What is sent; bodies are taken in turn."""

    path: str
    bodies: Sequence[bytes]
    headers: tuple[Header, ...] = ((b"content-type", b"application/json"),)


@dataclass
class Measured:
    """Answers per second, and the latency of each."""

    rate: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies_s, percent)) * 1000 if self.latencies_s else float("nan")


async def closed(port: int, request: Request, clients: int, seconds: float) -> Measured:
    """`clients` ask again as soon as they are answered."""
    connections = Calls("127.0.0.1", port, limit=clients)
    bodies = itertools.cycle(request.bodies)
    try:
        await _clients(connections, request, bodies, clients, WARM_UP_S)
        gc.collect()
        gc.disable()
        start = time.perf_counter()
        measured = await _clients(connections, request, bodies, clients, seconds)
        measured.rate = len(measured.latencies_s) / (time.perf_counter() - start)
        return measured
    finally:
        gc.enable()
        await connections.close()


async def paced(port: int, request: Request, rate: float, seconds: float, limit: int = 256) -> Measured:
    """Requests at a steady rate, whether or not the ones before are answered; latency counts from when each was due."""
    connections = Calls("127.0.0.1", port, limit=limit)
    measured = Measured()
    bodies = itertools.cycle(request.bodies)
    gc.collect()
    gc.disable()  # a full collection of this process would look like a tenth of a second of the server's
    start = time.perf_counter() + 0.05
    tasks = []
    try:
        for number in range(int(rate * seconds)):
            due = start + number / rate
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            tasks.append(asyncio.create_task(_one(connections, request, next(bodies), due, measured)))
        await asyncio.gather(*tasks)
        measured.rate = len(measured.latencies_s) / (time.perf_counter() - start)
    finally:
        gc.enable()
        await connections.close()
    return measured


async def _clients(
    connections: Calls, request: Request, bodies: Iterator[bytes], clients: int, seconds: float
) -> Measured:
    measured = Measured()
    end = time.perf_counter() + seconds

    async def client() -> None:
        while (now := time.perf_counter()) < end:
            await _one(connections, request, next(bodies), now, measured)

    await asyncio.gather(*(client() for _ in range(clients)))
    return measured


async def _one(connections: Calls, request: Request, body: bytes, since: float, measured: Measured) -> None:
    answer = await connections.request("POST", request.path, body, request.headers)
    if answer.status == 200:
        measured.latencies_s.append(time.perf_counter() - since)
    else:
        measured.failed += 1
