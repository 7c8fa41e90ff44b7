"""Feast's online lookup on a Redis of its own: in process and through the feature server, for 1 and 64 entity rows.

    python -m benchmarks.online_features [--entities 2000] [--rounds 3]     (make bench-features)

Each way is timed in interleaved rounds; beside them the bare HMGETs that a lookup comes down to, so that the rest is
what Feast and HTTP cost. Figures, and Redis' bytes for an entity, go to `.millrace/bench/online_features.json`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millrace.fields import View
from millrace.installed import Workload, load
from millrace.lake.atomic import write_text
from millrace.lake.feast_home import repository
from millrace.lake.provenance import code_version, hardware
from millrace.settings import settings
from serving.local.ports import free_port

ROOT: Final = Path(__file__).parents[1]
ROWS: Final = (1, 64)
CLIENTS: Final = 16
CALLS: Final = {1: 300, 64: 25}
"""Of each way in each round."""
LOAD_TURNS: Final = 4
DEADLINE_S: Final = 120
LAST_US: Final = 1_538_000_000_000_000
Call = Callable[[int], Any]
CONFIGURATION: Final = """project: {workload}
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db", cache_mode: thread, cache_ttl_seconds: 60}}
offline_store: {{type: duckdb}}
online_store: {{type: redis, connection_string: "127.0.0.1:{port}"}}
entity_key_serialization_version: 3
"""


@contextmanager
def process(command: list[str], port: int, **environment: str) -> Iterator[None]:
    """A server until the block ends; ready when its port answers."""
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL) as running:
        try:
            end = time.monotonic() + DEADLINE_S
            while not listens(port):
                if running.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{command[0]} does not answer on port {port} (status {running.returncode})")
                time.sleep(0.05)
            yield
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def states(workload: Workload, view: View, count: int, length: int) -> pa.Table:
    """Entities named 0 … count - 1, recent ones with whole histories, their numbers as large as a year's."""
    random = np.random.default_rng(0)
    key = workload.entity(view.entity).key
    columns: dict[str, Any] = {key: [str(name) for name in range(count)]}
    columns["event_timestamp"] = pa.array([LAST_US] * count).cast(pa.timestamp("us", tz="UTC"))
    for name, kind in view.fields.items():
        rows = length if view.recent else 1
        numbers = [_numbers(random, kind.value_type if view.recent else kind, rows) for _ in range(count)]
        columns[name] = pa.array(numbers, kind) if view.recent else pa.array(np.concatenate(numbers), kind)
    return pa.table(columns)


def _numbers(random: np.random.Generator, kind: pa.DataType, count: int) -> np.ndarray[Any, Any]:
    if pa.types.is_floating(kind):
        return random.random(count, np.float32)
    return np.sort(LAST_US - random.integers(0, 60 * 86_400_000_000, count))


def fill(store: Any, redis: Any, workload: Workload, count: int, length: int) -> dict[str, float]:
    """Write states of every view through Feast; Redis' bytes for each entity, and milliseconds."""
    found = {}
    for view in workload.features.VIEWS:
        rows = states(workload, view, count, length).to_pandas()
        before, start = redis.info("memory")["used_memory"], time.perf_counter()
        store.write_to_online_store(view.name, rows)
        found[f"{view.name}_redis_bytes"] = (redis.info("memory")["used_memory"] - before) / count
        found[f"{view.name}_fill_ms"] = (time.perf_counter() - start) / count * 1e3
    return found


def listed(workload: Workload) -> list[str]:
    """Every field of the service, as Feast names it."""
    return [f"{view.name}:{name}" for view in workload.features.VIEWS for name in view.fields]


def keys_of(workload: Workload) -> list[str]:
    return sorted({workload.entity(view.entity).key for view in workload.features.VIEWS})


def ways(store: Any, redis: Any, port: int, workload: Workload, count: int) -> dict[str, Call]:
    """Name → call with a number of rows."""
    random = np.random.default_rng(2)
    service = store.get_feature_service(workload.features.FEATURE_SERVICE)
    columns, keys = listed(workload), keys_of(workload)
    hashes = _hashes(redis)

    def entities(rows: int) -> dict[str, list[str]]:
        return {key: [str(name) for name in random.integers(0, count, rows)] for key in keys}

    def bare(rows: int) -> Any:
        with redis.pipeline(transaction=False) as pipe:  # one round trip, as Feast does
            for keys, names in hashes:
                for place in random.integers(0, len(keys), rows):
                    pipe.hmget(keys[place], names)
            return pipe.execute()

    connection = http.client.HTTPConnection("127.0.0.1", port)
    return {
        "redis": bare,
        "in_process": lambda rows: store.get_online_features(service, entities(rows)).to_dict(),
        "http_list": lambda rows: post(connection, {"features": columns, "entities": entities(rows)}),
        "http_service": lambda rows: post(connection, {"feature_service": service.name, "entities": entities(rows)}),
    }


def _hashes(redis: Any) -> list[tuple[list[bytes], list[bytes]]]:
    """Keys of each kind of entity, with the fields of one."""
    by_size: dict[int, list[bytes]] = {}
    for key in redis.scan_iter(count=1000):
        by_size.setdefault(redis.hlen(key), []).append(key)
    return [(keys, redis.hkeys(keys[0])) for keys in by_size.values()]


def post(connection: http.client.HTTPConnection, body: dict[str, Any]) -> Any:
    """What the feature server answers, parsed, as a client would have it."""
    connection.request("POST", "/get-online-features", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise SystemExit(f"the feature server answered {answer.status}: {content[:200]!r}")
    return json.loads(content)


def measure(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """p50 and p99 in milliseconds, this process's CPU for one call, and the shares that are not Redis.

    Calls are interleaved one by one, so that a busy machine is busy for all of them.
    """
    found = {}
    for rows in ROWS:
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for turn in range(-3, rounds * CALLS[rows]):
            for name, call in calls.items():
                times = _timed(call, rows)
                if turn >= 0:  # the first few open connections and load code
                    taken[name].append(times)
        wall = {name: np.array(times)[:, 0] for name, times in taken.items()}
        for name, times in taken.items():
            found[f"{name}_rows{rows}_p50_ms"] = float(np.median(wall[name]))
            found[f"{name}_rows{rows}_p99_ms"] = float(np.percentile(wall[name], 99))
            found[f"{name}_rows{rows}_caller_cpu_ms"] = float(np.mean(times, axis=0)[1])
            share = 1 - float(np.median(wall["redis"])) / found[f"{name}_rows{rows}_p50_ms"]
            found |= {f"{name}_rows{rows}_share_outside_redis": share} if name != "redis" else {}
    return found


def _timed(call: Call, rows: int) -> tuple[float, float]:
    """Milliseconds on the wall, and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    call(rows)
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def load_test(port: int, body: dict[str, Any], seconds: float) -> float:
    """Requests a second of CLIENTS clients at once; each waits for its answer."""

    def client(_: int) -> int:
        connection, count = http.client.HTTPConnection("127.0.0.1", port), 0
        while time.perf_counter() < end:
            post(connection, body)
            count += 1
        connection.close()
        return count

    start = time.perf_counter()
    end = start + seconds
    with ThreadPoolExecutor(CLIENTS) as threads:
        total = sum(threads.map(client, range(CLIENTS)))
    return total / (time.perf_counter() - start)


def run(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Redis, a store in it, a feature server over it, and the figures."""
    from feast import FeatureStore
    from redis import Redis

    workload = load(options.workload)
    redis_port, port, repo = free_port(), free_port(), repository(folder, workload.name, "served")
    repo.mkdir(parents=True)
    about = CONFIGURATION.format(workload=workload.name, folder=repo, port=redis_port)
    (repo / "feature_store.yaml").write_text(about)
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("no redis-server on PATH; install one: apt-get install redis-server")
    redis_command = [program, "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with process(redis_command, redis_port):
        redis = Redis(port=redis_port)
        store = FeatureStore(repo_path=str(repo))
        define = runpy.run_path(str(ROOT / "feature_repo" / "definitions.py"))["define"]
        store.apply(define(workload, folder))
        store.refresh_registry()
        figures = fill(store, redis, workload, options.entities, options.length)
        feast = str(Path(sys.executable).with_name("feast"))
        serve = [feast, "-c", str(repo), "serve", "--port", str(port), "--workers", "1", "--no-access-log"]
        with process([*serve, "--max-requests", "1000000"], port, PYTHONOPTIMIZE="1", FEAST_USAGE="False"):
            figures |= measure(ways(store, redis, port, workload, options.entities), options.rounds)
            figures |= rates(port, workload, options.seconds)
    return figures


def rates(port: int, workload: Workload, seconds: float) -> dict[str, float]:
    """Requests a second for a list of features and for the name of the service, in turns."""
    asked: dict[str, Any] = {"entities": {key: ["1"] for key in keys_of(workload)}}
    kinds = {
        "list": {"features": listed(workload)},
        "service": {"feature_service": workload.features.FEATURE_SERVICE},
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(LOAD_TURNS):
        for name, what in kinds.items():
            found[name].append(load_test(port, asked | what, seconds / LOAD_TURNS))
    return {f"http_{name}_c{CLIENTS}_requests_per_s": float(np.median(found[name])) for name in kinds}


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_features", description=__doc__)
    parser.add_argument("--workload", default=settings().workload, help="whose views (default %(default)s)")
    parser.add_argument("--entities", type=int, default=2000, help="of each view in Redis (default %(default)s)")
    parser.add_argument("--length", type=int, default=64, help="events in a recent state (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help=f"of {CLIENTS} clients, each way (default 4)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        figures = run(Path(folder), options)
    facts = {"entities": options.entities, "history_length": options.length} | hardware()
    document = (
        {name: round(float(value), 3) for name, value in figures.items()} | facts | {"code_version": code_version()}
    )
    out = settings().home / "bench" / "online_features.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(document, indent=2) + "\n")
    for name, value in document.items():
        print(f"{name:48} {value}")


if __name__ == "__main__":
    main()
