"""What a request costs on the wire: by our protocol and by uvicorn's, and what a call costs our client.

`python -m benchmarks.wire`. One JSON object on stdout: microseconds of CPU of the process that is named, and the median
round trip. Rounds are interleaved and the least CPU of them counts: a busy machine only adds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Any, Final

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from benchmarks.processes import answering, cpu_s
from serving.calls import Calls
from serving.local.ports import free_port
from serving.wire import StrictProtocol

ROUNDS: Final = 7
ANSWER: Final = b"x" * 300
REQUEST: Final = b"x" * 9000
"""A row with a whole history in binary tensors."""
PROTOCOLS: Final[dict[str, type[HttpToolsProtocol]]] = {"strict": StrictProtocol, "uvicorn": HttpToolsProtocol}


async def application(_: Any, receive: Any, send: Any) -> None:
    """300 bytes to everything, when the body is there."""
    message = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(ANSWER))]})
    await send({"type": "http.response.body", "body": ANSWER})


def serve(protocol: str, port: int) -> None:
    uvicorn.run(
        application, port=port, http=PROTOCOLS[protocol], loop="uvloop", ws="none", lifespan="off",
        log_level="critical", access_log=False,
    )  # fmt: skip


async def measured(port: int, pid: int, calls: int) -> tuple[float, float, float]:
    """Server's CPU and client's CPU of a call, and its median round trip, in microseconds; one call at a time."""
    async with Calls("127.0.0.1", port) as client:
        took = []
        server, own = cpu_s(pid), time.process_time()
        for _ in range(calls):
            began = time.perf_counter()
            await client.request("POST", "/", REQUEST)
            took.append(time.perf_counter() - began)
        return (
            (cpu_s(pid) - server) / calls * 1e6,
            (time.process_time() - own) / calls * 1e6,
            statistics.median(took) * 1e6,
        )


async def compare(ports: dict[str, tuple[int, int]], calls: int) -> dict[str, Any]:
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ports}
    for _ in range(ROUNDS):
        for name, (port, pid) in ports.items():
            rounds[name].append(await measured(port, pid, calls))
    names = ("server_cpu_us", "client_cpu_us", "p50_us")
    return {
        name: {figure: round(min(one[place] for one in found)) for place, figure in enumerate(names)}
        for name, found in rounds.items()
    }


async def run(calls: int) -> dict[str, Any]:
    ports, started = {}, []
    try:
        for name in PROTOCOLS:
            port = free_port()
            started.append(subprocess.Popen([sys.executable, "-O", "-m", __spec__.name, name, str(port)]))
            await answering(port, "/")
            ports[name] = port, started[-1].pid
        return await compare(ports, calls)
    finally:
        for process in started:
            process.terminate()


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    arguments.add_argument("--calls", type=int, default=2000)
    arguments.add_argument("serve", nargs="*", help="protocol and port: the script starts itself so")
    options = arguments.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    print(json.dumps(asyncio.run(run(options.calls)), indent=2))


if __name__ == "__main__":
    main()
