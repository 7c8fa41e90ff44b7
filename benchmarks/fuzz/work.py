"""Many clients at once over connections that are kept open, so that an answer given to the wrong one is seen."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from benchmarks.fuzz.client import Address, Answer, Connection, Ended
from benchmarks.fuzz.judge import HANG, RIGHT, WRONG, judged
from benchmarks.fuzz.mutations import is_kept, mutated
from benchmarks.fuzz.report import Report, about
from benchmarks.fuzz.requests import Maker, Request, Servers
from benchmarks.fuzz.rpc import Caller
from millrace.installed import Workload

PAUSE_S = 0.002
"""Between the segments of a request that is sent in several."""
PIPELINED = 0.1
"""Share of requests that are sent with others behind them, before an answer is read."""
GRPC_SHARE = 0.15


@dataclass
class Fuzz:
    """One run."""

    servers: Servers
    workload: Workload
    history_length: int
    seed: int
    timeout_s: float

    async def run(self, requests: int, clients: int) -> Report:
        report = Report(self.seed)
        numbers = [iter(range(parity, requests, 2)) for parity in (0, 1)]
        began = time.perf_counter()
        with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
            task = progress.add_task("fuzz", total=requests)

            def tell() -> None:
                progress.update(task, completed=report.requests.total())

            work = [self._client(place % 2, numbers[place % 2], report, tell) for place in range(clients)]
            await asyncio.gather(*work)
        report.seconds = time.perf_counter() - began
        return report

    async def _client(self, odd: int, numbers: Iterator[int], report: Report, tell: Callable[[], None]) -> None:
        """Even numbers are valid requests, and their clients send nothing else; odd ones are mutated."""
        maker = Maker(self.servers, self.workload, self.history_length, np.random.default_rng(0))
        caller = Caller(maker, self.servers.grpc, self.timeout_s) if self.servers.grpc else None
        client = _Client(maker, report, self.seed, self.timeout_s, valid=not odd)
        try:
            for number in numbers:
                maker.random = np.random.default_rng([self.seed, number])
                if caller is not None and maker.random.random() < GRPC_SHARE:
                    called = await caller.ask(number, valid=client.valid)
                    report.add("grpc", called.status, called.fault, called.about)
                else:
                    await client.ask(number, numbers)
                if number % 100 < 2:
                    tell()
        finally:
            client.close()
            if caller is not None:
                await caller.close()


class _Client:
    """A connection to each server, replaced when it ends."""

    def __init__(self, maker: Maker, report: Report, seed: int, timeout_s: float, *, valid: bool) -> None:
        self.valid, self._seed = valid, seed
        self._maker, self._report, self._timeout_s = maker, report, timeout_s
        self._kinds = sorted(maker.kinds)
        self._open: dict[Address, Connection] = {}
        self._exchanged: list[Request] = []
        """The requests of the exchange under way."""
        self._answered = 0
        """How many of them have their answer."""
        self._connection: Connection | None = None

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    async def ask(self, number: int, numbers: Iterator[int]) -> None:
        """One request, or a few in one go, and their answers."""
        requests = [self._request(number)]
        if self._maker.random.random() < PIPELINED:
            for _ in range(self._maker.random.integers(1, 4)):
                following = next(numbers, None) if _goes_on(requests[-1]) else None
                if following is None:
                    break
                self._maker.random = np.random.default_rng([self._seed, following])
                requests.append(self._request(following, requests[0].kind))
        await self._exchange(requests)

    def _request(self, number: int, kind: str = "") -> Request:
        random = self._maker.random
        made = self._maker.make(kind or self._kinds[random.integers(len(self._kinds))], number)
        return made if self.valid else mutated(made, random)

    async def _exchange(self, requests: list[Request]) -> None:
        address = requests[0].address
        self._exchanged, self._answered, self._connection = requests, 0, None
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = self._open.pop(address, None)
                if connection is None or connection.reader.at_eof():
                    connection = await Connection.to(address)
                self._connection = connection
                kept = await self._talk(connection, requests)
        except (TimeoutError, OSError) as error:
            why = str(error) or f"no answer within {self._timeout_s:g} s"
            for request in requests[self._answered :]:
                self._add(request, "none", HANG, why)
            if self._connection is not None:
                self._connection.close()
            return
        if kept:
            self._open[address] = connection
        else:
            connection.close()

    async def _talk(self, connection: Connection, requests: list[Request]) -> bool:
        """Send, read an answer to each, judge it; True when the connection can be used again."""
        fresh = connection.used == 0
        connection.received.clear()
        for request in requests:
            await connection.send(request.written(), pause_s=PAUSE_S)
            if request.ends:
                connection.end_sending()
        answers: list[Answer] = []
        for place, request in enumerate(requests):
            try:
                answer = await connection.read(request.method)
            except Ended as error:
                due = (fresh or place > 0) and not _flooded(connection, answers)
                self._ended(requests[place:], str(error), due=due)
                return False
            except ValueError as error:
                self._add(request, "none", WRONG, str(error))
                return False
            fault, why = judged(request, answer)
            answers.append(answer)
            self._answered = place + 1
            self._add(request, str(answer.status), fault, why)
            if _closes(answer):
                self._dropped(requests[place + 1 :])
                return False
        return _goes_on(requests[-1])

    def _ended(self, requests: list[Request], why: str, *, due: bool) -> None:
        """The connection ended without an answer: a fault if the request was right and an answer was due."""
        first, *others = requests
        # A proxy takes a client that closes its sending side for gone, and drops what is on its way.
        due = due and all(is_kept(request) and not request.ends for request in requests)
        fault = WRONG if due else RIGHT
        self._add(first, "ended", fault, f"no answer to a request that is right: {why}")
        self._dropped(others)

    def _dropped(self, requests: list[Request]) -> None:
        """Requests behind one whose answer ended the connection."""
        for request in requests:
            self._add(request, "ended")

    def _add(self, request: Request, status: str, fault: str = RIGHT, why: str = "") -> None:
        if not fault:
            self._report.add(request.kind, status)
            return
        received = bytes(self._connection.received) if self._connection is not None else b""
        self._report.add(request.kind, status, fault, about(request, why, self._exchanged, received))


def _closes(answer: Answer) -> bool:
    return "close" in answer.headers.get("connection", "").lower()


def _flooded(connection: Connection, answers: Sequence[Answer]) -> bool:
    """Whether Envoy may end the connection at the next request that came in the same go.

    To Envoy an answer waits until the one behind it is on the wire, and with two that wait it takes no further request
    ("Too many responses queued"; no setting changes that). Behind an answer that it makes itself, which names no
    server, the next request is read before anything is written.
    """
    answered = connection.used - 1
    return answered > 1 and bool(answers) and "server" not in answers[-1].headers


def _goes_on(request: Request) -> bool:
    """Whether the connection can carry another request behind it."""
    return request.framed and not request.ends
