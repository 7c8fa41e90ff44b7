"""What stands beside Envoy and is not on the way of a request, unless it asks for it: `python -m serving.local.agent`.

A service with a logger is passed on by it, as by KServe's agent, which is a proxy in front of the component; a graph's
requests go where KServe's router would send them; `/metrics` are what Envoy counted of the revisions. The supervisor
says in a file which loggers and graphs there are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from millrace.errors import MillraceError, NotFound, Unavailable
from millrace.observe.progress import log
from serving.lean import error_reply
from serving.local.data_plane import Admin
from serving.local.graph import Graph, Step
from serving.local.logger import EventLogger
from serving.local.manifest import LOOPBACK, Command, Logger
from serving.local.routes import SERVICE_HEADER
from serving.local.state import AGENT
from serving.local.statistics import WANTED, knative

HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length", "expect"}
)
MAX_BODY_BYTES: Final = 16 << 20
TIMEOUT_S: Final = 600.0
"""Envoy's limits are stricter, and a service's own."""
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Agent:
    """Passes requests on; `file` says to whom, and is read again when it has changed."""

    def __init__(self, file: Path, admin: Admin) -> None:
        self._file, self._admin = file, admin
        self._seen = (0, 0)
        self._ports: dict[str, int] = {}
        self._loggers: dict[str, EventLogger] = {}
        self._graphs: dict[str, Graph] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def application(self) -> web.Application:
        made = web.Application(client_max_size=MAX_BODY_BYTES)
        made.router.add_get("/healthz", self._healthy)
        made.router.add_get("/metrics", self._metrics)
        made.router.add_route("*", "/{path:.*}", self._pass_on)
        made.on_startup.append(self._start)
        made.on_cleanup.append(self._stop)
        return made

    async def _start(self, _: web.Application) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15)
        self._session = aiohttp.ClientSession(
            timeout=timeout, connector=connector, auto_decompress=False, trust_env=False
        )

    async def _stop(self, _: web.Application) -> None:
        await asyncio.gather(*(logger.close() for logger in self._loggers.values()), *self._closing)
        await self._session.close()
        await self._admin.close()

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _metrics(self, _: web.Request) -> web.Response:
        try:
            text = await self._admin.ask(f"/stats/prometheus?usedonly&filter={WANTED}")
        except Unavailable as error:
            return _refused(error)
        return web.Response(body=knative(text).encode(), headers={"content-type": METRICS_TYPE})

    async def _pass_on(self, request: web.Request) -> web.Response:
        try:
            self._read_file()
            body = await request.read()
            if request.path.startswith("/graphs/"):
                step = self._step(request.path.removeprefix("/graphs/"), body)
                return await self._ask(request, step.port, step.path, body)
            return await self._ask_logged(request, body)
        except MillraceError as error:
            return _refused(error)

    def _step(self, name: str, body: bytes) -> Step:
        graph = self._graphs.get(name)
        if graph is None:
            raise NotFound(f"no InferenceGraph {name!r}; there are {sorted(self._graphs)}")
        return graph.choose(body)

    async def _ask_logged(self, request: web.Request, body: bytes) -> web.Response:
        name = request.headers.get(SERVICE_HEADER, "")
        port = self._ports.get(name)
        if port is None:
            raise Unavailable("the service is starting; try again in a moment")
        answer = await self._ask(request, port, request.raw_path, body)
        if answer.status == 200 and request.path.endswith((":predict", "/infer")):
            types = (
                request.headers.get("content-type", "application/json"),
                answer.headers.get("content-type", "application/json"),
            )
            self._loggers[name].exchanged(request.headers, body, bytes(answer.body or b""), types)  # type: ignore[arg-type]
        return answer

    async def _ask(self, request: web.Request, port: int, path: str, body: bytes) -> web.Response:
        url = URL(f"http://{LOOPBACK}:{port}{path}", encoded=True)
        headers = _passed_on(request.headers)
        headers.popall(SERVICE_HEADER, None)
        try:
            async with self._session.request(request.method, url, data=body, headers=headers) as answer:
                given = await answer.read()
                return web.Response(body=given, status=answer.status, headers=_passed_on(answer.headers))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{path} cannot be reached: {error!r}") from error

    def _read_file(self) -> None:
        status = self._file.stat()
        seen = (status.st_ino, status.st_mtime_ns)
        if seen == self._seen:
            return
        self._seen = seen
        document = json.loads(self._file.read_text(encoding="utf-8"))
        self._graphs = {
            name: Graph(name, tuple(Step(**step) for step in steps)) for name, steps in document["graphs"].items()
        }
        wanted = {name: Logger(item["url"], item["mode"]) for name, item in document["loggers"].items()}
        self._ports = {name: item["port"] for name, item in document["loggers"].items()}
        for name in [name for name, logger in self._loggers.items() if wanted.get(name) != logger.logger]:
            task = asyncio.create_task(self._loggers.pop(name).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for name in wanted.keys() - self._loggers.keys():
            self._loggers[name] = EventLogger(wanted[name], name)


def described(loggers: Mapping[str, tuple[Logger, int]], graphs: Mapping[str, Graph]) -> str:
    """The file that says which there are."""
    found: dict[str, Any] = {
        "loggers": {name: asdict(logger) | {"port": port} for name, (logger, port) in loggers.items()},
        "graphs": {name: [asdict(step) for step in graph.steps] for name, graph in graphs.items()},
    }
    return json.dumps(found)


def command(file: Path, admin: Path) -> Command:
    """What runs an agent that follows a file."""
    words = (sys.executable, "-m", "serving.local.agent", f"--file={file}", f"--admin={admin}")
    return Command(AGENT, (*words, "--http_port={http_port}"), {}, "/healthz")


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


def _refused(error: MillraceError) -> web.Response:
    reply = error_reply(error)
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return web.Response(body=reply.body, status=reply.status, headers=headers, content_type="application/json")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--file", type=Path, required=True, help="which loggers and graphs there are")
    arguments.add_argument("--admin", type=Path, required=True, help="socket of Envoy's administration")
    arguments.add_argument("--host", default=LOOPBACK)
    arguments.add_argument("--http_port", type=int, required=True)
    options = arguments.parse_args()
    agent = Agent(options.file, Admin(options.admin))
    log("agent_starts", port=options.http_port, pid=os.getpid())
    with suppress(KeyboardInterrupt):
        web.run_app(
            agent.application(),
            host=options.host,
            port=options.http_port,
            print=lambda *_: None,
            access_log=None,
            shutdown_timeout=30,
            auto_decompress=False,
        )


if __name__ == "__main__":
    main()
