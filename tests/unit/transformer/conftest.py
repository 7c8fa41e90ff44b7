"""Real small servers and a transformer in front of them, all on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from folding import folded

from fraud.features import VIEWS
from millrace.appended.records import SLACK, Entry
from millrace.events.stream import PREDICTIONS, Group, open_stream
from millrace.fields import View
from millrace.inputs import RecentEvents
from millrace.installed import load
from millrace.lookup import empty, unknown_states
from millrace.settings import Settings
from serving.lean import LeanRoutes
from serving.protocol import decode_json
from serving.reads import Reads
from serving.transformer import wiring
from serving.transformer.predictor import PredictorClient
from serving.transformer.routes import identified

CUSTOMERS, TERMINALS = VIEWS
N = 4
NAME = "fraud-detector"
V1 = f"/v1/models/{NAME}:predict"


@dataclass
class Asked:
    """One request that a server got."""

    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Asked], Awaitable[tuple[int, bytes]]]


class HTTPServer:
    """Answers every request with `answer` and remembers it."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self, port: int = 0):
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            async with server:
                yield self
        finally:
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                asked = Asked(head[0].split()[1], headers, body)
                self.asked.append(asked)
                status, answer = await self.answer(asked)
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(answer), answer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def predictor(version: str = "1", score: float = 0.25, *, history_length: int = N) -> HTTPServer:
    """A predictor that gives every row this score; `answer` may be replaced."""

    async def answer(asked: Asked) -> tuple[int, bytes]:
        return 200, scores_for(asked, version, score, history_length)

    return HTTPServer(answer)


def scores_for(asked: Asked, version: str, score: float, history_length: int = N) -> bytes:
    length = int(asked.headers["inference-header-content-length"])
    rows = decode_json(asked.body[:length])["inputs"][0]["shape"][0]
    output = {"name": "score", "shape": [rows], "datatype": "FP32", "data": [score] * rows}
    parameters = {"decision_threshold": 0.5, "history_length": history_length}
    return orjson.dumps({"model_version": version, "parameters": parameters, "outputs": [output]})


def told(settings: Settings) -> list[dict[str, Any]]:
    """Every prediction event on the stream of a home so far."""
    stream = open_stream(settings)
    try:
        entries = stream.read(Group(PREDICTIONS, f"test {time.monotonic_ns()}"), "test", 100_000, 0.0)
    finally:
        stream.close()
    return [orjson.loads(entry.body) for entry in entries]


@dataclass
class MemoryStore:
    """An online store of unknown entities; `fails` is raised by lookups, `refuses` by appends, `gate` waited for."""

    fails: Exception | None = None
    refuses: Exception | None = None
    gate: Callable[[], None] = lambda: None
    reads: int = 0
    states: dict[str, RecentEvents] = field(default_factory=dict)
    views: tuple[View, ...] = VIEWS
    appended: list[Entry] = field(default_factory=list)
    embedded: bool = False
    place: str = "memory"

    def read(self, keys):
        self.reads += 1
        self.gate()
        if self.fails:
            raise self.fails
        found = unknown_states(self.views, len(next(iter(keys.values()))))
        for view in self.views:
            if view.recent:
                known = [self.states.get(key, empty(view)) for key in keys[view.entity]]
                found.recent[view.name][:] = known
        return found

    def contents(self):
        return None

    def append(self, entries):
        if self.refuses:
            raise self.refuses
        self.appended += entries
        for one in entries:
            self.states[one.key] = folded(self.states.get(one.key, empty(CUSTOMERS)), [one], N + SLACK)

    def push(self):
        return 0

    def unpushed(self):
        return 0

    def sync(self):
        pass


@dataclass
class Replied:
    status: int
    headers: dict[str, str]
    document: dict[str, Any]


class Running:
    """A transformer that is asked through its routes, as a client would, without a socket in between."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.app = LeanRoutes({V1: identified(self._v1)}, behind=None)  # type: ignore[arg-type]

    async def _v1(self, body: bytes, headers: Any) -> Any:
        from serving.lean import Reply

        return Reply(orjson.dumps(await self.model.answer_v1(decode_json(body), headers)))

    async def post(self, body: bytes, **headers: str) -> Replied:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await self.app({"type": "http", "method": "POST", "path": V1, "headers": named}, receive, send)
        got = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Replied(sent[0]["status"], got, orjson.loads(sent[1]["body"]))

    async def predict(self, *rows: dict[str, Any], **headers: str) -> Replied:
        return await self.post(orjson.dumps({"instances": list(rows)}), **headers)


def transaction(id_: int = 1, customer: str = "c", **changes: Any) -> dict[str, Any]:
    base = {"transaction_id": id_, "customer_id": customer, "terminal_id": "t", "amount": 12.5}
    return base | {"event_timestamp": "2018-09-30T12:00:00Z"} | changes


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., Settings]:
    """`options(deadline_ms=…)`: settings of a home of its own."""

    def make(**changes: Any) -> Settings:
        usual = {"history_length": N, "pseudonym_key": "key", "lookup_timeout_s": 30.0, "deadline_ms": 60_000}
        return Settings(home=tmp_path, **usual | changes)

    return make


@asynccontextmanager
async def serving(
    predictor: Any, settings: Settings, store: Any = None, workload: str = "fraud", generations: Any = None
):
    """A started transformer; on leaving, what it has to tell is told."""
    champion = PredictorClient(predictor, NAME) if isinstance(predictor, str) else predictor
    if generations is None:
        generations = wiring.generations(load(workload), settings)
        generations.add(wiring.held(load(workload), Reads("", "served"), store or MemoryStore(), settings))
    model = wiring.transformer(NAME, load(workload), champion, generations, settings)
    await model.started()
    try:
        yield Running(model)
    finally:
        await model.finished()


async def until(what: str, condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen in {timeout_s} s") from None


def metric(name: str, **labels: str) -> float:
    from prometheus_client import REGISTRY

    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def lab() -> SimpleNamespace:
    """The servers and helpers above, for tests that cannot import a conftest."""
    names = ("NAME", "N", "HTTPServer", "MemoryStore", "predictor", "scores_for", "told")
    more = ("serving", "transaction", "until", "metric")
    return SimpleNamespace(**{name: globals()[name] for name in (*names, *more)})


class Clock:
    """Stands still, at noon, until a test moves it."""

    now = datetime(2018, 5, 10, 12, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
