"""A real Envoy as the local runtime runs it, and small servers behind it, for tests."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from serving.local.data_plane import DataPlane
from serving.local.entrance import Entrance
from serving.local.ports import Ports, free_port
from serving.local.routed import Component, Routed
from serving.local.state import Place

PATH = "/v1/models/m:predict"
MIB = 1 << 20


class Server:
    """Answers each request with its own name and what it saw; `answer` says otherwise, with a status or by closing."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self.seen: list[dict[str, Any]] = []
        self.status, self.delay_s, self.drops = 200, 0.0, 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                seen = {"name": server.name, "path": self.path, "method": self.command, "length": length}
                self.rfile.read(length)
                server.seen.append(seen | {"headers": {k.lower(): v for k, v in self.headers.items()}})
                time.sleep(server.delay_s)
                if server.drops:
                    server.drops -= 1
                    self.close_connection = True
                    return
                data = json.dumps(server.seen[-1]).encode()
                self.send_response(server.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_HEAD = do_OPTIONS = do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                """Quiet."""

        class Listening(ThreadingHTTPServer):
            request_queue_size = 200
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A caller that gave up."""

        self._http = Listening(("127.0.0.1", port), Handler)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def routed(name: str = "m", stable: int | tuple[int, ...] = 0, canary: int = 0, **more: Any) -> Routed:
    """A service without a transformer, whose revisions listen at these ports."""
    ports = stable if isinstance(stable, tuple) else (stable,)
    first, second = f"{name}-predictor-00001", f"{name}-predictor-00002"
    parts = [Component(first, ports, more.pop("grpc_ports", ()))] + ([Component(second, (canary,))] if canary else [])
    port = free_port()
    values = {"port": port, "predictor_port": port, "timeout_s": 5.0, "components": tuple(parts)} | more
    return Routed(name=name, stable=first, canary=second if canary else "", **values)


class Plane:
    """The data plane of a home, in an event loop of its own."""

    def __init__(self, place: Place, entrance: Entrance) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        place.logs.mkdir(parents=True, exist_ok=True)
        self.place = place
        self.data_plane = self.call(self._made(place, entrance))

    async def _made(self, place: Place, entrance: Entrance) -> DataPlane:
        return DataPlane(place, entrance, Ports(place.ports, held=False), lambda: None)

    def call(self, work: Coroutine[Any, Any, Any], timeout_s: float = 30) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def route(self, *services: Routed) -> None:
        """As the supervisor does it; returns when Envoy has it."""

        async def change() -> None:
            self.data_plane.route(services, self.data_plane.entrance.agent_port)
            await self.data_plane.applied()

        self.call(change())

    def begin(self, *services: Routed) -> None:
        async def change() -> None:
            self.data_plane.route(services, self.data_plane.entrance.agent_port)
            self.data_plane.begin()
            await self.data_plane.process.ready.wait()

        self.call(change())

    @property
    def port(self) -> int:
        return self.data_plane.entrance.port

    def ask(self, path: str = PATH, body: bytes = b"{}", method: str = "POST", **headers: str) -> tuple[int, Any]:
        status, _, document = self.answer(path, body, method, **headers)
        return status, document

    def answer(
        self, path: str = PATH, body: bytes = b"{}", method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(data) if data else None
        finally:
            connection.close()

    def metrics(self) -> str:
        from serving.local.statistics import WANTED, knative

        return knative(self.call(self.data_plane.admin.ask(f"/stats/prometheus?usedonly&filter={WANTED}")))

    def close(self) -> None:
        self.call(self.data_plane.stop(5))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def running(home: Path, *services: Routed, **entrance: Any) -> Iterator[Plane]:
    """An Envoy for these services; the first one is the main one."""
    first = services[0].name if services else "m"
    values = {"port": free_port(), "grpc_port": 0, "main": first, "agent_port": 1} | entrance
    place = Place(home)
    made = Plane(place, Entrance(access_log=place.logs / "access.jsonl", **values))
    try:
        made.begin(*services)
        yield made
    finally:
        made.close()


@contextmanager
def asking(plane: Plane) -> Iterator[list[tuple[int, Any]]]:
    """Requests without pause while the body runs; their answers."""
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answers.append(plane.ask())

    asked = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asked:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in asked:
            thread.join()


def more(answers: list[Any], number: int) -> None:
    """Wait until so many more answers have come."""
    wanted = len(answers) + number
    wait(f"{number} answers", lambda: len(answers) > wanted)


def post(body: bytes, *lines: bytes, path: str = PATH, length: bool = True) -> bytes:
    """A request as it travels."""
    head = [f"POST {path} HTTP/1.1".encode(), b"host: x", *lines]
    return b"\r\n".join([*head, *([b"content-length: %d" % len(body)] if length else []), b"", body])


def raw(port: int, data: bytes, *more: bytes, timeout_s: float = 5.0) -> bytes:
    """What comes back on one connection until it is closed, or one whole answer has come and nothing follows."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(data)
        for part in more:
            time.sleep(0.1)  # another segment
            connection.sendall(part)
        received = b""
        connection.settimeout(timeout_s)
        while not _whole(received):
            try:
                got = connection.recv(65536)
            except TimeoutError:
                break
            if not got:
                break
            received += got
        return received


def _whole(received: bytes) -> bool:
    head, end, body = received.rpartition(b"\r\n\r\n")
    if not end or b"100 Continue" in head.rpartition(b"HTTP/1.1")[2]:
        return False
    lines = head.rpartition(b"HTTP/1.1")[2].lower().split(b"\r\n")
    length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), None)
    return length is not None and len(body) >= length


def wait(what: str, condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.02)
