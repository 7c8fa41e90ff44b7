"""What Envoy adds to a call: `python -m benchmarks.envoy [--clients 1]`.

A small server that answers at once, asked directly, through a predictor's port of Envoy (no split), and through the
gateway as a client does, in turns. Wall time per call, and Envoy's own CPU time, which other work on the machine does
not change. The client is aiohttp, as the transformer's is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np
import uvloop

from serving.local.data_plane import DataPlane
from serving.local.entrance import Entrance
from serving.local.ports import Ports, free_port
from serving.local.routed import Component, Routed
from serving.local.state import Place

ROUNDS: Final = 20
CALLS: Final = 200
PATH: Final = "/v2/models/m/infer"
BODY: Final = b"x" * 9000
"""About what a row with a recent view takes as binary tensors."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.envoy", description=__doc__)
    parser.add_argument("--clients", type=int, default=1, help="requests that are under way at a time")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if options.serve:
        asyncio.run(_serve(options.serve))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(_measure(Path(folder), options.clients)), indent=2))


async def _measure(home: Path, clients: int) -> dict[str, float]:
    server, predictor = free_port(), free_port()
    service = Routed(
        name="m",
        port=predictor,
        predictor_port=predictor,
        timeout_s=30,
        stable="m-predictor-00001",
        components=(Component("m-predictor-00001", (server,)),),
    )
    place = Place(home)
    place.logs.mkdir(parents=True)
    entrance = Entrance(port=free_port(), grpc_port=0, main="m", agent_port=1, access_log=place.logs / "access.jsonl")
    plane = DataPlane(place, entrance, Ports(place.ports, held=False), lambda: None)
    plane.route([service], 1)
    plane.begin()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.envoy", f"--serve={server}"])
    try:
        await plane.process.ready.wait()
        ports = {"direct": server, "inner": predictor, "gateway": plane.entrance.port}
        return await _rounds(ports, clients, plane.process.state.pid)
    finally:
        process.terminate()
        process.wait()
        await plane.stop(1)


async def _rounds(ports: dict[str, int], clients: int, envoy: int) -> dict[str, float]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False) as session:
        await _answering(session, ports["direct"])
        seconds: dict[str, list[np.ndarray]] = {name: [] for name in ports}
        cpu_s = dict.fromkeys(ports, 0.0)
        for turn in range(ROUNDS + 1):
            for name, port in ports.items():
                before = _cpu_s(envoy)
                taken = await _calls(session, port, clients)
                if turn:  # the first warms up
                    seconds[name].append(taken)
                    cpu_s[name] += _cpu_s(envoy) - before
    found: dict[str, float] = {}
    direct = np.array([np.median(taken) for taken in seconds["direct"]])
    for name in ports:
        medians = np.array([np.median(taken) for taken in seconds[name]])
        found[f"{name}_p50_us"] = round(float(np.median(np.concatenate(seconds[name]))) * 1e6, 1)
        if name != "direct":
            found[f"{name}_added_p50_us"] = round(float(np.median(medians - direct)) * 1e6, 1)
            found[f"{name}_envoy_cpu_us"] = round(cpu_s[name] / (ROUNDS * CALLS) * 1e6, 1)
    return found


async def _calls(session: aiohttp.ClientSession, port: int, clients: int) -> np.ndarray:
    """Seconds of each of CALLS calls."""
    seconds = np.empty(CALLS)
    numbers = iter(range(CALLS))

    async def client() -> None:
        for number in numbers:
            start = time.perf_counter()
            async with session.post(f"http://127.0.0.1:{port}{PATH}", data=BODY) as answer:
                await answer.read()
            seconds[number] = time.perf_counter() - start
            assert answer.status == 200

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds


async def _answering(session: aiohttp.ClientSession, port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(aiohttp.ClientError):
            async with session.get(f"http://127.0.0.1:{port}/"):
                return
        await asyncio.sleep(0.05)
    raise SystemExit("the server did not become ready")


async def _serve(port: int) -> None:
    """Answers every request with 300 bytes."""

    class Answering(asyncio.Protocol):
        def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def]
            self._transport, self._buffer = transport, b""

        def data_received(self, data: bytes) -> None:
            self._buffer += data
            head, end, body = self._buffer.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0"
            if end and len(body) >= int(length):
                self._buffer = b""
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n" + b"x" * 300)

    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", port)
    await server.serve_forever()


def _cpu_s(pid: int) -> float:
    """Of all threads of a process (Linux), to the nanosecond."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


if __name__ == "__main__":
    main()
