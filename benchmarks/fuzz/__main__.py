"""Requests of every kind, valid and not, from many clients at once: `make fuzz`.

Against the running home (`make up`), or servers that are named. Half of the clients send valid requests alone, whose
answers must be theirs; the others send requests that a seed has mutated. Wanted: no answer of status 500, no answer of
another's, no hang. What is sent is kept as any traffic is: use a home that may be thrown away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import Request as Call

from rich.console import Console

from benchmarks.fuzz.client import Address
from benchmarks.fuzz.report import Report, show
from benchmarks.fuzz.requests import Servers
from benchmarks.fuzz.work import Fuzz
from millrace.direct import open_directly
from millrace.errors import MillraceError, Unavailable
from millrace.installed import load
from millrace.lake.atomic import write_text
from millrace.settings import Settings, settings
from serving.local.commands import require_running
from serving.local.state import Place

READY_S: Final = 60.0


@dataclass(frozen=True)
class Options:
    requests: int
    seed: int
    clients: int
    timeout_s: float
    out: Path


def main(arguments: list[str] | None = None) -> int:
    """Fuzz, print, write; 1 unless nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--workload", default="", help="whose service (default: MILLRACE_WORKLOAD)")
    parser.add_argument("--requests", type=int, default=10_000, help="how many (default 10,000; in full 100,000)")
    parser.add_argument("--seed", type=int, help="the same one sends the same requests (default: by the clock)")
    parser.add_argument("--clients", type=int, default=12, help="at once (default 12)")
    parser.add_argument("--timeout_s", type=float, default=20.0, help="no answer for so long is a hang (default 20)")
    parser.add_argument("--out", type=Path, help="where the report goes (default <home>/bench/fuzz.json)")
    parser.add_argument("--to-http", default="", help="host:port that answers events (default: the running gateway)")
    parser.add_argument("--to-grpc", default="", help="host:port of the same over gRPC")
    parser.add_argument("--to-predictor", default="", help="host:port of the predictor alone")
    parser.add_argument("--to-log", default="", help="host:port of the prediction log")
    found = parser.parse_args(arguments)
    here = settings(found.workload)
    seed = time.time_ns() % 2**32 if found.seed is None else found.seed
    out = found.out or here.home / "bench" / "fuzz.json"
    options = Options(found.requests, seed, found.clients, found.timeout_s, out)
    print(f"seed {seed}", file=sys.stderr)
    try:
        servers = _named(found, here) if found.to_http else _running(here)
        report = run(_described(servers), here, options)
    except MillraceError as error:
        print(f"fuzz: {error}", file=sys.stderr)
        return 1
    show(report, Console())
    write_text(out, json.dumps(report.document(), indent=2) + "\n")
    return int(report.found_something)


def run(servers: Servers, here: Settings, options: Options) -> Report:
    """Send them all, and say what came back."""
    workload = load(here.workload)
    fuzz = Fuzz(servers, workload, here.history_length, options.seed, options.timeout_s)
    return asyncio.run(fuzz.run(options.requests, options.clients))


def _named(found: argparse.Namespace, here: Settings) -> Servers:
    predictor = _address(found.to_predictor) if found.to_predictor else None
    log = _address(found.to_log) if found.to_log else None
    return Servers(here.model_name, _address(found.to_http), predictor, found.to_grpc, log, _token(here))


def _running(here: Settings) -> Servers:
    """Those of the home's local runtime; raises Unavailable when none runs."""
    state = require_running(Place(here.home))
    ports = {(process.service, process.role): process.http_port for process in state.processes}
    predictor = ports.get((here.model_name, "predictor"), 0)
    log = next((port for (service, _), port in ports.items() if service == "prediction-log"), 0)
    return Servers(
        here.model_name,
        Address("127.0.0.1", state.gateway_port),
        Address("127.0.0.1", predictor) if predictor else None,
        f"127.0.0.1:{state.grpc_port}" if state.grpc_port else "",
        Address("127.0.0.1", log) if log else None,
        _token(here),
    )


def _described(servers: Servers) -> Servers:
    """With the tensors that the servers' metadata tells; raises Unavailable."""
    if servers.log is not None:
        _wait_for(f"http://{servers.log}/readyz")
    tensors = _inputs(servers.predictor, servers) if servers.predictor else ()
    return replace(servers, event_inputs=_inputs(servers.events, servers), tensor_inputs=tensors)


def _wait_for(url: str) -> None:
    """A runtime is up before what watches it is."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            open_directly(url, 5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise Unavailable(f"{url} does not answer within {READY_S:g} s: {error}") from error
        time.sleep(0.2)


def _inputs(address: Address, servers: Servers) -> tuple[dict[str, Any], ...]:
    url = f"http://{address}/v2/models/{servers.model}"
    try:
        with open_directly(Call(url, headers=dict(servers.headers)), 10) as answer:
            return tuple(json.loads(answer.read())["inputs"])
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable(f"{url} says no inputs: {error}. Start it with: make up") from error


def _address(text: str) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or not parts.port:
        raise Unavailable(f"{text!r} is no address; wanted host:port")
    return Address(parts.hostname, parts.port)


def _token(here: Settings) -> tuple[tuple[str, str], ...]:
    return tuple(here.gateway_headers.items())


if __name__ == "__main__":
    sys.exit(main())
