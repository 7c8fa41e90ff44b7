"""What tracing costs an answer: two transformers with a predictor each, one pair traced, asked in turn.

`python -m benchmarks.tracing MODEL_DIR`, in a home (MILLRACE_HOME) whose online store is filled; it is copied. One JSON
object on stdout. A tenth of the requests is traced unless --sampled says another share; a collector takes the spans.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import cpu_s
from benchmarks.transformer import NAME, measured, process, ready
from millrace.lake.feast_home import CONFIGURATION
from millrace.settings import settings
from serving.calls import Calls
from serving.local.ports import free_port

ROUNDS: Final = 5
EXPORT_S: Final = 6.0
"""The SDK's batches wait for at most five seconds."""
PATH: Final = f"/v1/models/{NAME}:predict"


@dataclass
class Pair:
    """A transformer and its predictor."""

    client: Calls
    pids: tuple[int, int]
    asked: int = 0

    async def ask(self) -> float:
        """Seconds that one prediction took."""
        self.asked += 1
        row = {"transaction_id": self.asked, "customer_id": str(self.asked % 400), "terminal_id": "7", "amount": 12.5}
        body = json.dumps({"instances": [row]}).encode()
        began = time.perf_counter()
        answer = await self.client.request("POST", PATH, body)
        took = time.perf_counter() - began
        assert answer.status == 200, answer.body
        return took

    def cpu_s(self) -> float:
        return sum(map(cpu_s, self.pids))


@asynccontextmanager
async def pair(model: Path, home: Path, **environment: str) -> AsyncIterator[Pair]:
    port, behind = free_port(), free_port()
    here = f"--predictor_host=127.0.0.1:{behind}"
    with (
        process("predictor", behind, f"--model_dir={model}", **environment) as predictor,
        process("transformer", port, here, MILLRACE_HOME=str(home), **environment) as transformer,
    ):
        await ready(behind)
        await ready(port)
        async with Calls("127.0.0.1", port) as client:
            yield Pair(client, (predictor.pid, transformer.pid))


async def compare(plain: Pair, traced: Pair, calls: int) -> dict[str, Any]:
    for one in (plain, traced):
        await measured(one.ask, 200, 4)
    alone: dict[bool, list[float]] = {False: [], True: []}
    busy: dict[bool, list[float]] = {False: [], True: []}
    pairs = {False: plain, True: traced}
    cpu_before, asked = {name: one.cpu_s() for name, one in pairs.items()}, plain.asked
    for turn in range(ROUNDS):
        for number in range(calls // ROUNDS):
            for is_traced in (False, True) if number % 2 else (True, False):
                alone[is_traced].append(await pairs[is_traced].ask())
        for is_traced in (False, True) if turn % 2 else (True, False):
            rps, _ = await measured(pairs[is_traced].ask, calls // ROUNDS, 8)
            busy[is_traced].append(rps)
    await asyncio.sleep(EXPORT_S)  # the last spans are exported as well
    cpu = {name: (one.cpu_s() - cpu_before[name]) / (one.asked - asked) * 1e3 for name, one in pairs.items()}
    rps = {name: statistics.median(runs) for name, runs in busy.items()}
    p50 = {name: statistics.median(took) * 1e3 for name, took in alone.items()}
    p5, p25 = (
        {name: statistics.quantiles(took, n=100)[place - 1] * 1e3 for name, took in alone.items()} for place in (5, 25)
    )
    p99 = {name: statistics.quantiles(took, n=100)[98] * 1e3 for name, took in alone.items()}
    figures = {"p5_ms": p5, "p25_ms": p25, "p50_ms": p50, "p99_ms": p99, "requests_per_s_c8": rps, "server_cpu_ms": cpu}
    return {name: {"off": round(by[False], 3), "on": round(by[True], 3)} for name, by in figures.items()} | {
        "latency_added_p5": round(p5[True] / p5[False] - 1, 4),  # a busy machine distorts the fastest answers least
        "latency_added_p25": round(p25[True] / p25[False] - 1, 4),
        "latency_added": round(p50[True] / p50[False] - 1, 4),
        "server_cpu_added": round(cpu[True] / cpu[False] - 1, 4),
    }


async def scrape_ms(one: Pair) -> float:
    took = []
    for _ in range(20):
        began = time.perf_counter()
        assert (await one.client.request("GET", "/metrics")).status == 200
        took.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(took), 2)


async def run(options: argparse.Namespace, folder: Path, sink_port: int) -> dict[str, Any]:
    model = options.model.resolve()
    homes = [copied(folder / name) for name in ("plain", "traced")]
    collector = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink_port}",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(options.sampled),
    }
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(pair(model, homes[0]))
        traced = await stack.enter_async_context(pair(model, homes[1], **collector))
        found = await compare(plain, traced, options.calls)
        return found | {"metrics_scrape_ms": await scrape_ms(traced), "load_1m": round(os.getloadavg()[0], 1)}


def copied(home: Path) -> Path:
    """A home with an online store and an event stream of its own."""
    given = settings().home.resolve()
    home.mkdir()
    shutil.copytree(given / "feast", home / "feast")
    for about in (home / "feast").rglob(CONFIGURATION):
        about.write_text(about.read_text().replace(str(given), str(home)))
    (home / "lake").symlink_to(given / "lake")
    if (given / "pseudonym.key").exists():
        shutil.copy(given / "pseudonym.key", home)
    return home


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--calls", type=int, default=2000)
    arguments.add_argument("--sampled", type=float, default=0.1, help="Share of requests that are traced.")
    options = arguments.parse_args()
    sink_port = free_port()
    sink = [sys.executable, "-m", "benchmarks.transformer", "--sink", str(sink_port), str(options.model)]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(sink) as collector:
        try:
            found = asyncio.run(run(options, Path(folder), sink_port))
        finally:
            collector.terminate()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
