"""What watching costs the serving path: two transformers with a predictor each, one pair watched, asked in turn.

`python -m benchmarks.watching MODEL_DIR`, in a home (MILLRACE_HOME) whose online store is filled; it is copied.
MODEL_DIR is a version in a model store, with its reference window. Both pairs append their events to a stream; that of
the watched pair is read by a real prediction log and a real drift detector (make drift-env), which judge and write on
the same cores. One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import answering, cpu_s
from benchmarks.tracing import Pair, compare, copied, pair
from millrace.errors import NotFound
from serving.calls import Calls
from serving.local.ports import free_port

DETECTOR: Final = Path(__file__).parents[1] / ".venv-drift" / "bin" / "python"
NICENESS: Final = 10
SETTLE_S: Final = 60


@dataclass
class Watcher:
    """One of the two, and how it counts what it took."""

    port: int
    pid: int
    counted: str

    async def taken(self) -> int:
        async with Calls("127.0.0.1", self.port) as client:
            text = (await client.request("GET", "/metrics")).body.decode()
        return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith(self.counted))


@contextmanager
def watcher(
    command: list[str], ready: str, counted: str, home: Path, stream_url: str, **environment: str
) -> Iterator[Watcher]:
    port = free_port()
    here = {"MILLRACE_HOME": str(home), "MILLRACE_STREAM_URL": stream_url}
    # Niced as the local runtime does it: what watches gives way to what answers.
    started = subprocess.Popen(
        ["nice", "-n", str(NICENESS), *command, f"--http_port={port}", "--host=127.0.0.1"],
        env=os.environ | here | environment,
    )
    try:
        found = Watcher(port, started.pid, counted)
        asyncio.run(answering(port, ready))
        yield found
    finally:
        started.terminate()
        started.wait(60)


def stream_of(folder: Path) -> str:
    """Where the watched pair and its watchers meet."""
    return f"sqlite:///{folder / 'stream' / 'events.db'}"


async def run(options: argparse.Namespace, folder: Path, watchers: list[Watcher]) -> dict[str, Any]:
    model = options.model.resolve()
    homes = [copied(folder / name) for name in ("plain", "watched")]
    version = {"MODEL_VERSION": model.name}
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(pair(model, homes[0], **version))
        events_at = {"MILLRACE_STREAM_URL": stream_of(folder)}
        watched = await stack.enter_async_context(pair(model, homes[1], **version, **events_at))
        before = [cpu_s(one.pid) for one in watchers]
        found = await compare(plain, watched, options.calls)
        events = await settled(watched, watchers)
        cpu_ms = [(cpu_s(one.pid) - b) / watched.asked * 1e3 for one, b in zip(watchers, before, strict=True)]
    rps = found["requests_per_s_c8"]
    return found | {
        "throughput_lost": round(1 - rps["on"] / rps["off"], 4),
        "asked": watched.asked,
        "events": dict(zip(("prediction_log", "drift_detector"), events, strict=True)),
        "watchers_cpu_ms": dict(
            zip(("prediction_log", "drift_detector"), [round(ms, 3) for ms in cpu_ms], strict=True)
        ),
        "load_1m": round(os.getloadavg()[0], 1),
    }


async def settled(watched: Pair, watchers: list[Watcher]) -> list[int]:
    """What each took, once that is all or time is up: what is missing shows."""
    try:
        async with asyncio.timeout(SETTLE_S):
            while min(taken := [await one.taken() for one in watchers]) < watched.asked:
                await asyncio.sleep(0.2)
    except TimeoutError:
        return [await one.taken() for one in watchers]
    return taken


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--calls", type=int, default=3000)
    options = arguments.parse_args()
    if not DETECTOR.exists():
        raise NotFound(f"no {DETECTOR}: make drift-env")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        records = watcher(
            [sys.executable, "-m", "serving.prediction_log.server"],
            "/readyz",
            'millrace_log_rows_total{table="predictions"}',
            folder / "log",
            stream_of(folder),
        )
        detector = watcher(
            [str(DETECTOR), "-m", "serving.drift_detector.server", "--enable_grpc=false"],
            "/v2/health/ready",
            'millrace_drift_events_total{outcome="accepted"}',
            folder / "drift",
            stream_of(folder),
            MILLRACE_DRIFT_MODEL_STORE=str(options.model.resolve().parent),
        )
        with records as one, detector as two:
            found = asyncio.run(run(options, folder, [one, two]))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
