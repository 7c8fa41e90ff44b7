"""A proxy in the environment is for the world outside: nobody asks this machine or this cluster through it."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge.score import Endpoint
from millrace.direct import open_directly
from serving.calls import Calls

ROOT = Path(__file__).parents[2]
DEAD = "http://127.0.0.1:9"
WORLD = {"src/millrace/direct.py", "edge/score.py"}
"""Where urllib's own opener is made: for no proxy at all, and for none to this machine."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"predictions": [{"score": 0.5, "decision": "approve"}]}')

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch) -> Iterator[str]:
    """URL of a server on this machine, while the environment names proxies that are dead."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, DEAD)
        monkeypatch.setenv(name.lower(), DEAD)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        thread.join()


def test_commands_ask_this_machine_directly(server):
    with open_directly(server, 5) as answer:
        assert answer.status == 200


def test_servers_ask_servers_directly(server):
    async def ask() -> int:
        async with Calls("127.0.0.1", int(server.rpartition(":")[2])) as calls:
            return (await calls.request("GET", "/")).status

    assert asyncio.run(ask()) == 200


def test_an_edge_runner_asks_its_own_machine_directly(server):
    assert Endpoint(server, 5, "score").ask({}) == (0.5, "approve")


def test_a_process_that_starts_with_a_proxy_asks_directly(server):
    """urllib reads the environment when its opener is made, which is in a process's first moments."""
    program = f"from millrace.direct import open_directly; print(open_directly({server!r}, 5).status)"

    done = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "200", done.stderr


def calls_of(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_no_program_has_a_client_that_heeds_the_environment():
    heeding = []
    for folder in ("src", "components", "serving", "run", "drill", "edge", "pipelines", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            name = str(path.relative_to(ROOT))
            assert "\nimport requests\n" not in path.read_text(), f"{name}: wanted millrace.direct, or serving.calls"
            for called, call in calls_of(path):
                options = {option.arg: ast.unparse(option.value) for option in call.keywords}
                session = called.endswith(("httpx.AsyncClient", "httpx.Client", "aiohttp.ClientSession"))
                if session and options.get("trust_env") != "False":
                    heeding.append((name, called))
                if called.endswith(("urlopen", "urlretrieve", "build_opener")) and name not in WORLD:
                    heeding.append((name, called))
                if called in ("httpx.get", "httpx.post", "httpx.request"):
                    heeding.append((name, called))

    assert heeding == []
