"""What the local splitter adds to a predictor's call: `python -m benchmarks.splitter --model FOLDER`.

A real predictor, asked directly and through a splitter in a process of its own, in turns. Wall time per call, and the
splitter's own CPU time, which other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import uvloop

from millrace.registry.model_spec import ModelSpec
from serving.connections import Connections
from serving.local.exchange import Upstream
from serving.local.processes import free_port
from serving.local.revision_metrics import RevisionMetrics
from serving.local.splitter import Splitter
from serving.protocol import JSON_LENGTH_HEADER, encode_v2_request

ROUNDS = 20
CALLS = 100


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.splitter", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a model artifact")
    parser.add_argument("--split", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if options.split:
        asyncio.run(_split(options.split))
    else:
        print(json.dumps(asyncio.run(_measure(options.model)), indent=2))


async def _measure(model: Path) -> dict[str, float]:
    predictor = free_port()
    command = [sys.executable, "-m", "serving.predictor.server", "--model_name=m", f"--model_dir={model}"]
    with (
        _process([*command, f"--http_port={predictor}", "--enable_grpc=false", "--host=127.0.0.1"]),
        _process([sys.executable, "-m", "benchmarks.splitter", f"--split={predictor}"], output=True) as splitter,
    ):
        port = int((splitter.stdout or sys.stdin).readline())
        direct, split = Connections("127.0.0.1", predictor), Connections("127.0.0.1", port)
        await _ready(direct)
        body, headers = _request(model)
        for connections in (direct, split):
            await _calls(connections, body, headers)
        before = _cpu_s(splitter.pid)
        rounds = [(await _calls(direct, body, headers), await _calls(split, body, headers)) for _ in range(ROUNDS)]
        used = _cpu_s(splitter.pid) - before
        direct.close(), split.close()
    one, two = (np.concatenate(side) * 1e6 for side in zip(*rounds, strict=True))
    added = [np.median(b) - np.median(a) for a, b in rounds]
    return {
        "direct_p50_us": round(float(np.median(one)), 1),
        "split_p50_us": round(float(np.median(two)), 1),
        "added_p50_us": round(float(np.median(added)) * 1e6, 1),
        "splitter_cpu_us": round(used / (ROUNDS * CALLS) * 1e6, 1),
    }


async def _calls(connections: Connections, body: bytes, headers: list[tuple[bytes, bytes]]) -> np.ndarray:
    seconds = np.empty(CALLS)
    for call in range(CALLS):
        start = time.perf_counter()
        answer = await connections.request(b"POST", b"/v2/models/m/infer", body, headers)
        seconds[call] = time.perf_counter() - start
        assert answer.status == 200, answer.body
    return seconds


def _request(model: Path) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """One row, with a customer's whole state, as the transformer sends it."""
    spec = ModelSpec.read(model)
    features = np.ones((1, len(spec.feature_names)), np.float32)
    history = np.ones((1, spec.history_length, len(spec.history_channels)), np.float32)
    body, length = encode_v2_request({"features": ("FP32", features), "history": ("FP32", history)})
    return body, [(JSON_LENGTH_HEADER.encode(), b"%d" % length)]


async def _split(predictor: int) -> None:
    upstream = Upstream("m-00001")
    upstream.port = predictor
    splitter = Splitter("m", RevisionMetrics())
    splitter.route(upstream)
    await splitter.start()
    print(splitter.port, flush=True)
    await asyncio.Event().wait()


async def _ready(connections: Connections) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if (await connections.request(b"GET", b"/v2/models/m/ready", timeout_s=2)).status == 200:
                return
        await asyncio.sleep(0.1)
    raise SystemExit("the predictor did not become ready")


@contextlib.contextmanager
def _process(command: list[str], *, output: bool = False) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE if output else None, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
