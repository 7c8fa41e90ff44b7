"""What the transformer's hop to the model costs by topology, and what watching costs the path.

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
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from millrace.errors import Unavailable
from millrace.events.prediction import CHAMPION
from millrace.installed import load
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import settings
from serving.calls import Calls
from serving.local.ports import free_port
from serving.transformer.answers import Door
from serving.transformer.context import Context
from serving.transformer.core import Inputs, Part, Scored
from serving.transformer.events import Record
from serving.transformer.in_process import InProcess
from serving.transformer.predictor import PredictorClient
from serving.transformer.sinks import Events

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
            "remote_lean_v2": lambda: lean.score(inputs),
            "in_process": lambda: local.score(inputs),
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
    """CPU of the transformer for an unwatched request, and what an event adds: remembered, encoded, delivered."""
    port, sink_port = free_port(), free_port()
    with process("predictor", port, f"--model_dir={model}"):
        await ready(port)
        path_us = min([await path_cpu_us(port, calls, turn) for turn in range(3)])
    with subprocess.Popen([sys.executable, "-m", __spec__.name, "--sink", str(sink_port), str(model)]) as sink:
        events_us = min([await event_cpu_us(sink_port, 20 * calls) for _ in range(3)])
        sink.terminate()
    share = round(events_us / path_us, 4)
    return {"path_cpu_us": round(path_us), "event_cpu_us": round(events_us, 1), "share_of_the_path": share}


async def event_cpu_us(sink_port: int, rows: int) -> float:
    """Records of one-row requests, as they come, through `Events` to a sink in another process."""
    door = Door(WORKLOAD)
    row = {"transaction_id": 1, "customer_id": "c", "terminal_id": "t", "amount": 12.5}
    requests = door.format.from_rows([row], 0)
    keys = door.format.keys(requests, str)
    features = np.random.default_rng(0).random((1, len(WORKLOAD.features.FEATURE_NAMES)), np.float32)
    scored = Scored({"score": np.float32([0.3])}, "1", 0.5, 64, ("full",))
    part = Part(range(1), scored, CHAMPION, NAME)
    context = Context.of({}, 5.0)
    events = Events([f"http://127.0.0.1:{sink_port}"])
    events.start()
    before = time.process_time()
    for start in range(0, rows, 1000):
        for _ in range(min(1000, rows - start)):
            at = datetime.now(UTC)
            events.put(Record(door, context, at, context.elapsed_ms(), requests, keys, features, False, part))
        while len(events):
            await asyncio.sleep(0.01)
    cpu = time.process_time() - before
    await events.finish(1.0)
    return cpu / rows * 1e6


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
    """A sink: 202 to everything."""
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
    async with asyncio.timeout(120), Calls("127.0.0.1", port) as client:
        while True:
            try:
                if (await client.request("GET", f"/v2/models/{NAME}/ready", timeout_s=2)).status == 200:
                    return
            except Unavailable:
                pass
            await asyncio.sleep(0.1)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--sink", type=int, help="Be a sink on this port; the script starts itself so.")
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
