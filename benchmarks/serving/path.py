"""The whole path, live: transformer, lookup, Envoy and predictor of a local runtime on two cores, one row a request.

Transactions are new ones of customers that the store knows.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks.serving.load import Measured, Request, closed, paced
from benchmarks.serving.models import ROOT, Served
from millrace.lake.manifest import list_manifests
from serving.local.state import LocalState, Place

ROUNDS: Final = 3
CLIENTS: Final = 16
BELOW: Final = 10
"""The quiet load is this part of the busy one."""


def figures(home: Path, model: Served, seconds: float) -> dict[str, float]:
    """At half the saturation rate: latency, beside the predictor alone at that rate, and beside a tenth of the load.

    `path_steal_share` is the part of the processors' time that the host took for other machines meanwhile (Linux): what
    it takes is most of the latest answers.
    """
    rounds: list[dict[str, float]] = []
    before = psutil.cpu_times()
    with _runtime(home) as state:
        transformer, predictor = state.services[0].port, _predictor_port(state)
        path, transactions = f"/v1/models/{state.service}:predict", _transactions(home)
        direct = Request(path, model.bodies("v1"))
        for _ in range(ROUNDS):
            saturated = _load(closed(transformer, _fresh(path, transactions, 8000), CLIENTS, seconds))
            rate = saturated.rate / 2
            busy = _load(paced(transformer, _fresh(path, transactions, int(rate * seconds * 2) + 1), rate, seconds * 2))
            alone = _load(paced(predictor, direct, rate, seconds * 2))
            quiet = _fresh(path, transactions, int(rate / BELOW * seconds * 3) + 1)
            unloaded = _load(paced(transformer, quiet, rate / BELOW, seconds * 3))
            rounds.append(_round(saturated, busy, alone, unloaded))
        found = _transformer(state) | {"path_steal_share": _stolen(before, psutil.cpu_times())}
    return found | {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def _round(saturated: Measured, busy: Measured, alone: Measured, unloaded: Measured) -> dict[str, float]:
    return {
        "path_saturation_rps": saturated.rate,
        "path_p50_ms": busy.percentile_ms(50),
        "path_p99_ms": busy.percentile_ms(99),
        "path_vs_predictor": busy.percentile_ms(50) / alone.percentile_ms(50),
        "path_vs_predictor_p99": busy.percentile_ms(99) / alone.percentile_ms(99),
        "path_p50_loaded_vs_unloaded": busy.percentile_ms(50) / unloaded.percentile_ms(50),
    }


def _stolen(before: Any, after: Any) -> float:
    spent = [late - early for early, late in zip(before, after, strict=True)]
    stolen = getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)
    return float(stolen / max(sum(spent), 1e-9))


def _transformer(state: LocalState) -> dict[str, float]:
    """Its start beside the other servers' on two cores, and what it takes after the loads."""
    process = next(one for one in state.processes if one.role == "transformer")
    resident = psutil.Process(process.pid).memory_info().rss / 2**20
    return {"transformer_rss_mb": resident, "transformer_cold_start_s": process.ready_after_s}


def _load(work) -> Measured:  # type: ignore[no-untyped-def]
    measured: Measured = asyncio.run(work)
    if measured.failed or not measured.latencies_s:
        raise SystemExit(f"the path failed {measured.failed} of {measured.failed + len(measured.latencies_s)} requests")
    return measured


@contextmanager
def _runtime(home: Path) -> Iterator[LocalState]:
    """The local runtime of `home` on both cores, ready; stopped at the end."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"MILLRACE_HOME": str(home), "MILLRACE_GATEWAY_PORT": str(port), "PYTHONWARNINGS": "ignore"}
    local = [sys.executable, "-m", "serving.local"]
    environment = os.environ | settings
    try:
        subprocess.run([*local, "up"], env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        state = Place(home).read()
        assert state is not None
        yield state
    finally:
        subprocess.run([*local, "down"], env=environment, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)


def _predictor_port(state: LocalState) -> int:
    return next(one.http_port for one in state.processes if "predictor" in one.role and one.http_port)


def _transactions(home: Path) -> Iterator[bytes]:
    """Without end: customers and terminals of the training set, the day after its last."""
    folder = Path(list(list_manifests(home / "lake" / "training_sets", "training_set"))[-1].uri)
    rows = pq.read_table(folder / "rows.parquet", columns=["event_timestamp", "customer_id", "terminal_id"])
    customers, terminals = rows["customer_id"].to_pylist(), rows["terminal_id"].to_pylist()
    begin = max(rows["event_timestamp"].to_pylist()) + timedelta(days=1)
    random = np.random.default_rng(0)
    for number in itertools.count():
        row = int(random.integers(len(customers)))
        instance = {
            "transaction_id": 10**15 + os.getpid() * 10**9 + number,
            "event_timestamp": (begin + timedelta(milliseconds=50 * number)).isoformat(),
            "customer_id": customers[row],
            "terminal_id": str(terminals[row]),
            "amount": round(float(random.gamma(2.0, 30.0)), 2),
        }
        yield json.dumps({"instances": [instance]}).encode()


def _fresh(path: str, transactions: Iterator[bytes], count: int) -> Request:
    headers = ((b"content-type", b"application/json"), (b"x-millrace-keys", b"pseudonyms"))
    return Request(path, list(itertools.islice(transactions, count)), headers)
