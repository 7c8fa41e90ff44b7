"""What the transformer's hop to the model costs by topology, and what a prediction's event costs the path.

`python -m benchmarks.transformer MODEL_DIR`, in a home (MILLRACE_HOME) whose online store is filled. One JSON object on
stdout. CPU is of the process that calls, which is what a busy machine distorts least; rounds are interleaved.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.processes import answering, cpu_s
from millrace.events.prediction import CHAMPION
from millrace.events.stream import open_stream
from millrace.installed import load
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import Settings, settings
from serving.calls import Calls
from serving.local.ports import free_port
from serving.transformer.answers import Door
from serving.transformer.context import Context
from serving.transformer.core import Choice, Inputs, Part, Scored
from serving.transformer.events import Events, Record
from serving.transformer.in_process import InProcess
from serving.transformer.predictor import PredictorClient

WORKLOAD: Final = load("fraud")
NAME: Final = WORKLOAD.model_name
ROUNDS: Final = 5
Call = Callable[[], Awaitable[Any]]


async def hops(model: Path, calls: int) -> dict[str, Any]:
    """One row with a whole history to the model, by each way, at concurrency 1 and 16."""
    spec = ModelArtifact.open(model).spec
    features = np.zeros((1, len(spec.feature_names)), np.float32)
    inputs = features, np.zeros((1, spec.history_length, len(spec.history_channels)), np.float32)
    port, grpc_port = free_port(), free_port()
    with process("predictor", port, f"--model_dir={model}", f"--grpc_port={grpc_port}", "--enable_grpc=true"):
        await ready(port)
        lean, local = PredictorClient(f"127.0.0.1:{port}", NAME), InProcess(model, NAME, settings())
        ways: dict[str, Call] = {
            "remote_lean_v2": lambda: lean.score(Choice([inputs])),
            "in_process": lambda: local.score(Choice([inputs])),
            "remote_grpc_raw": grpc_call(f"127.0.0.1:{grpc_port}", inputs),
        }
        found = await interleaved(ways, calls)
        await lean.close()
        return found


def grpc_call(address: str, inputs: Inputs) -> Call:
    """The same request over the SDK's gRPC messages with raw tensors, on one kept-open channel."""
    from grpc import aio
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

    stub = GRPCInferenceServiceStub(aio.insecure_channel(address))

    async def call() -> np.ndarray:
        request = pb.ModelInferRequest(model_name=NAME)
        for name, array in zip(("features", "history"), inputs, strict=True):
            request.inputs.add(name=name, datatype="FP32", shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        answer = await stub.ModelInfer(request)
        return np.frombuffer(answer.raw_output_contents[0], np.float32)

    return call


async def interleaved(ways: dict[str, Call], calls: int) -> dict[str, Any]:
    found: dict[str, dict[int, list[tuple[float, float]]]] = {name: {1: [], 16: []} for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            for concurrency in (1, 16):
                found[name][concurrency].append(await measured(call, calls, concurrency))
    return {
        name: {
            f"c{concurrency}": {
                "requests_per_s": round(statistics.median(wall for wall, _ in runs)),
                "caller_cpu_us": round(statistics.median(cpu for _, cpu in runs)),
            }
            for concurrency, runs in by.items()
        }
        for name, by in found.items()
    }


async def measured(call: Call, calls: int, concurrency: int) -> tuple[float, float]:
    """Calls a second, and microseconds of this process's CPU for one."""
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            await call()

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return calls / (time.perf_counter() - wall), (time.process_time() - cpu) / calls * 1e6


async def watching(model: Path, calls: int) -> dict[str, Any]:
    """CPU of the transformer for a request, and what of it is the event: encoded, and appended to the stream."""
    port = free_port()
    with process("predictor", port, f"--model_dir={model}"):
        await ready(port)
        path_us = min([await path_cpu_us(port, calls, turn) for turn in range(3)])
    found = {f"event_{clients}": await event_cost(20 * calls, clients) for clients in (1, 16)}
    return {"path_cpu_us": round(path_us)} | found


async def event_cost(rows: int, clients: int) -> dict[str, float]:
    """CPU and waiting of one-row records, appended to a stream in a home of its own by so many clients at once."""
    door = Door(WORKLOAD)
    row = {"transaction_id": 1, "customer_id": "c", "terminal_id": "t", "amount": 12.5}
    requests = door.format.from_rows([row], 0)
    keys = door.format.keys(requests, str)
    features = np.random.default_rng(0).random((1, len(WORKLOAD.features.FEATURE_NAMES)), np.float32)
    scored = Scored({"score": np.float32([0.3])}, "1", 0.5, 64, ("full",))
    part = Part(range(1), scored, CHAMPION, NAME)
    context = Context.of({}, 5.0)
    waits: list[float] = []
    left = iter(range(rows))

    async def client() -> None:
        for _ in left:
            at, began = datetime.now(UTC), time.perf_counter()
            record = Record(door, context, at, context.elapsed_ms(), requests, keys, features, False, part)
            await events.append([record])
            waits.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as home:
        events = Events(open_stream(Settings(home=Path(home))))
        before = time.process_time()
        await asyncio.gather(*(client() for _ in range(clients)))
        cpu = time.process_time() - before
        await events.finish()
    p50, p99 = np.percentile(waits, [50, 99]) * 1e3
    return {"cpu_us": round(cpu / rows * 1e6, 1), "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}


async def path_cpu_us(predictor_port: int, calls: int, turn: int) -> float:
    port = free_port()
    host = f"--predictor_host=127.0.0.1:{predictor_port}"
    async with AsyncExitStack() as stack:
        started = stack.enter_context(process("transformer", port, host))
        await ready(port)
        client = await stack.enter_async_context(Calls("127.0.0.1", port))
        numbers = iter(range(10**9))

        async def call() -> None:
            number = 10**6 * turn + next(numbers)
            row = {"transaction_id": number, "customer_id": str(number % 400), "terminal_id": str(number % 300)}
            body = json.dumps({"instances": [row | {"amount": 12.5}]}).encode()
            answer = await client.request("POST", f"/v1/models/{NAME}:predict", body)
            assert answer.status == 200, answer.body

        await measured(call, 200, 8)
        before = cpu_s(started.pid)
        await measured(call, calls, 8)
        return (cpu_s(started.pid) - before) / calls * 1e6


async def serve_sink(port: int) -> None:
    await (await asyncio.start_server(swallow, "127.0.0.1", port)).serve_forever()


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """202 to everything."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
    except asyncio.IncompleteReadError:
        writer.close()


@contextmanager
def process(role: str, port: int, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", f"serving.{role}.server", f"--model_name={NAME}", "--host=127.0.0.1"]
    grpc = [] if any(argument.startswith("--grpc_port") for argument in arguments) else ["--enable_grpc=false"]
    started = subprocess.Popen(
        [*command, f"--http_port={port}", *grpc, *arguments], env=os.environ | {"PYTHONOPTIMIZE": "1"} | environment
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(30)


async def ready(port: int) -> None:
    await answering(port, f"/v2/models/{NAME}/ready")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--sink", type=int, help="Be a collector on this port; benchmarks.tracing starts one so.")
    arguments.add_argument("--calls", type=int, default=1000)
    arguments.add_argument("--only", choices=("hop", "watching"))
    options = arguments.parse_args()
    if options.sink:
        asyncio.run(serve_sink(options.sink))
    found = {}
    if options.only != "watching":
        found["hop"] = asyncio.run(hops(options.model.resolve(), options.calls))
    if options.only != "hop":
        found["watching"] = asyncio.run(watching(options.model.resolve(), options.calls))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
