"""The prediction log's figures: events a second over HTTP one per request and in batches, rows a second into SQL.

    python -m benchmarks.prediction_log [--seconds 5] [--database postgresql://…]     (make bench-log)

The server is pinned to one core, the client to another; every event is counted in the database at the end. Figures go
to `.millrace/bench/prediction_log.json`. Events per CPU second bear a busy machine; events per second do not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson
import psutil
import sqlalchemy as sa

from benchmarks.processes import answering
from fraud.features import FEATURE_NAMES
from millrace.events.log import PREDICTIONS, engine, migrate, transaction
from millrace.events.stream import PREDICTIONS as PREDICTED
from millrace.events.stream import open_stream
from millrace.lake.provenance import code_version, hardware
from millrace.settings import Settings, settings
from serving.local.ports import free_port

CONNECTIONS: Final = 32
BATCH_EVENTS: Final = 500
DEADLINE_S: Final = 120.0
EVENT: Final[dict[str, Any]] = {
    "specversion": "1.0",
    "type": "io.millrace.prediction",
    "source": "/millrace/fraud-detector",
    "time": "2018-09-30T12:00:00.123Z",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
DATA: Final[dict[str, Any]] = {
    "event_timestamp": "2018-09-30T11:59:59Z",
    "workload": "fraud",
    "keys": {"customer_id": "0123456789abcdef", "terminal_id": "4242"},
    "fields": {"amount": 12.5},
    "model_name": "fraud-detector",
    "model_version": "3",
    "score": 0.0123456,
    "decision": "approve",
    "degraded": False,
    "stage": "full",
    "arm": "champion",
    "latency_ms": 3.4567,
    "features": [0.123456 + place for place in range(len(FEATURE_NAMES))],
    "feature_service": "fraud_v1",
}


def event(number: int, run: str) -> dict[str, Any]:
    name = f"{run}-{number}:0"
    return EVENT | {"id": name, "subject": str(number), "data": DATA | {"event_id": number}}


def request(body: bytes, kind: bytes) -> bytes:
    head = (
        b"POST / HTTP/1.1\r\nhost: bench\r\ncontent-type: application/cloudevents%s+json\r\ncontent-length: %d\r\n\r\n"
    )
    return head % (kind, len(body)) + body


class Client(asyncio.Protocol):
    """One connection: the next request goes out when the answer to the last one is in."""

    def __init__(self, take: Callable[[], bytes | None], counts: dict[bytes, int]) -> None:
        self._take, self._counts = take, counts
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 "):
            return  # the rest of an answer
        status = data[9:12]
        self._counts[status] = self._counts.get(status, 0) + 1
        self._next()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _next(self) -> None:
        body = self._take()
        if body is None:
            self._transport.close()
        else:
            self._transport.write(body)


async def drive(port: int, take: Callable[[], bytes | None]) -> dict[bytes, int]:
    """Requests on CONNECTIONS connections until `take` has no more; status → answers."""
    loop, counts = asyncio.get_running_loop(), dict[bytes, int]()
    made = [await loop.create_connection(lambda: Client(take, counts), "127.0.0.1", port) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(client.done for _, client in made))
    return counts


class Server:
    """The real process on one core, with a home of its own."""

    def __init__(self, home: Path, database: str, core: int) -> None:
        self.settings = Settings(home=home, prediction_log_url=database)
        self.port = free_port()
        environment = os.environ | {"MILLRACE_HOME": str(home), "MILLRACE_PREDICTION_LOG_URL": database}
        environment["MILLRACE_LOG_RETENTION_DAYS"] = "0"  # events are of 2018
        command = [
            sys.executable,
            "-m",
            "serving.prediction_log.server",
            f"--http_port={self.port}",
            "--host=127.0.0.1",
        ]
        self._process = subprocess.Popen(command, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
        self._seen = psutil.Process(self._process.pid)
        asyncio.run(answering(self.port, "/readyz"))

    def cpu_s(self) -> float:
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def memory_mb(self) -> float:
        return float(self._seen.memory_info().rss) / 2**20

    def rows(self) -> int:
        log = engine(self.settings)
        migrate(log)
        with log.connect() as connection:
            count = int(connection.execute(sa.select(sa.func.count()).select_from(PREDICTIONS)).scalar_one())
        log.dispose()
        return count

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def until(condition: Callable[[], bool]) -> None:
    """Poll; raises TimeoutError past the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the deadline passed")
        time.sleep(0.05)


def one_per_request(server: Server, seconds: float) -> dict[str, float]:
    """Events for `seconds`, then wait until the database has them all."""
    number = iter(range(1 << 40))
    end = time.monotonic() + seconds

    def take() -> bytes | None:
        over = time.monotonic() > end
        return None if over else request(orjson.dumps(event(next(number), "one")), b"")

    figures = _measure(server, take, 1)
    return {f"http_one_{name}": value for name, value in figures.items()}


def in_batches(server: Server, batches: int) -> dict[str, float]:
    """The same in batches of BATCH_EVENTS, prepared beforehand."""
    starts = range(0, batches * BATCH_EVENTS, BATCH_EVENTS)
    bodies = [orjson.dumps([event(n, "batch") for n in range(start, start + BATCH_EVENTS)]) for start in starts]
    waiting = [request(body, b"-batch") for body in bodies]
    figures = _measure(server, lambda: waiting.pop() if waiting else None, BATCH_EVENTS)
    return {f"http_batch_{name}": value for name, value in figures.items()}


def _measure(server: Server, take: Callable[[], bytes | None], per_request: int) -> dict[str, float]:
    before, cpu, start = server.rows(), server.cpu_s(), time.perf_counter()
    counts = asyncio.run(drive(server.port, take))
    accepted, answered = counts.get(b"202", 0) * per_request, time.perf_counter() - start
    until(lambda: server.rows() - before >= accepted)
    stored, cpu = time.perf_counter() - start, server.cpu_s() - cpu
    lost = accepted - (server.rows() - before)
    refused = sum(counts.values()) * per_request - accepted
    return {
        "events_per_s": accepted / answered,
        "events_stored_per_s": accepted / stored,
        "events_per_cpu_s": accepted / cpu,
        "lost": lost,
        "refused": refused,
        "server_memory_mb": server.memory_mb(),
    }


def into_database(home: Path, database: str, rows: int, batch: int = 3000) -> dict[str, float]:
    """Rows a second from the stream through the writer into the database, in its own batches."""
    from serving.prediction_log.writer import Writer

    here = Settings(home=home, prediction_log_url=database)
    log, stream = engine(here), open_stream(here)
    migrate(log)
    with transaction(log) as connection:
        connection.execute(sa.delete(PREDICTIONS))
    for start in range(0, rows, batch):
        events = [event(n, "db") for n in range(start, start + batch)]
        stream.append(PREDICTED, [orjson.dumps(one) for one in events], [one["id"] for one in events])
    writer = Writer(log, stream, "bench")
    start, cpu = time.perf_counter(), time.process_time()
    writer.start()
    writer.stop(DEADLINE_S)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    with log.connect() as connection:
        stored = int(connection.execute(sa.select(sa.func.count()).select_from(PREDICTIONS)).scalar_one())
    stream.close()
    log.dispose()
    if stored != rows:
        raise RuntimeError(f"{stored} rows in the database; wanted {rows}")
    return {"database_rows_per_s": rows / seconds, "database_rows_per_cpu_s": rows / cpu}


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction_log", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one event per request (default 5)")
    parser.add_argument("--batches", type=int, default=120, help=f"of {BATCH_EVENTS} events (default 120)")
    parser.add_argument("--rows", type=int, default=60_000, help="straight into the database (default 60000)")
    parser.add_argument("--database", default="", help="an empty PostgreSQL to write to (default: SQLite)")
    options = parser.parse_args()
    out = settings().home / "bench" / "prediction_log.json"
    with tempfile.TemporaryDirectory() as folder:
        figures = into_database(Path(folder) / "direct", options.database, options.rows)
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[0]})
        server = Server(Path(folder) / "served", options.database, cores[-1])
        try:
            figures |= one_per_request(server, options.seconds) | in_batches(server, options.batches)
        finally:
            server.stop()
    facts = {"database": "postgresql" if options.database else "sqlite", "code_version": code_version(), **hardware()}
    document = {name: round(value, 1) for name, value in figures.items()} | facts
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2) + "\n")
    for name, value in document.items():
        print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
