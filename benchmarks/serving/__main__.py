"""How fast serving is, against other servers on the same model: `make bench-serving`.

Every server runs pinned to one core, the client to another; contenders take turns in every round, so that a slow minute
of the machine hits all of them; figures are medians over rounds, ratios medians of each round's ratio. Written to
`.millrace/bench/serving.json`. Loads end by themselves and stay on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.serving import path
from benchmarks.serving.load import Measured, Request, closed
from benchmarks.serving.models import Served, heavy, promoted, small_home
from benchmarks.serving.servers import Contender, Running, bare_asgi, others, ours, running, stock_kserve
from millrace.lake.atomic import write_text
from millrace.settings import settings

ROUNDS: Final = 5
SECONDS: Final = 1.5
"""Of each load."""
LONE_PAIRS: Final = 20
"""Comparisons of one client with and without batching, each a third as long as a load."""

AIMS: Final = {
    "predictor_vs_bare_asgi_c16": "≥ 0.8",
    "predictor_vs_bare_asgi_c64": "≥ 0.8",
    "predictor_vs_stock_kserve_c16": "≥ 2",
    "predictor_vs_stock_kserve_c64": "≥ 2",
    "predictor_vs_mlserver_c16": "≥ 2.5",
    "predictor_vs_mlserver_c64": "≥ 2.5",
    "predictor_vs_bentoml_c16": "≥ 5",
    "predictor_vs_bentoml_c64": "≥ 5",
    "predictor_vs_litserve_c16": "≥ 5",
    "predictor_vs_litserve_c64": "≥ 5",
    "batching_gain_c64": "≥ 1.2",
    "batching_gain_c64_heavy": "≥ 2.5",
    "batching_cost_c1": "≤ 0.03",
    "predictor_rss_mb": "≤ 300",
    "predictor_cold_start_s": "≤ 3",
    "transformer_rss_mb": "≤ 500",
    "transformer_cold_start_s": "≤ 8",
    "path_p99_ms": "≤ 25",
    "path_vs_predictor": "≤ 4",
    "path_p50_loaded_vs_unloaded": "≤ 1.2",
}
"""What issue and README promise; printed beside the figure."""

Cells = dict[tuple[str, int], list[Measured]]


def loads(found: list[Running]) -> list[tuple[Running, Request, str, int]]:
    """Every load of a round: server, request, what it is called, clients."""
    clients = {"predictor": (1, 16, 64), "predictor_unbatched": (1, 16, 64), "bare_asgi": (1, 16, 64)}
    clients |= {"heavy": (64,), "heavy_unbatched": (64,)}
    chosen = [
        (one, one.request, one.contender.name, c) for one in found for c in clients.get(one.contender.name, (16, 64))
    ]
    predictor = next(one for one in found if one.contender.name == "predictor")
    tensors = next((one.request for one in found if one.request.path.endswith("infer")), None)
    return chosen if tensors is None else chosen + [(predictor, tensors, "predictor_v2", c) for c in (16, 64)]


def measure(found: list[Running], rounds: int, seconds: float) -> tuple[Cells, dict[tuple[str, int], list[float]]]:
    """Rounds of every load; and CPU milliseconds of the server per request."""
    cells: Cells = {}
    cpu: dict[tuple[str, int], list[float]] = {}
    planned = loads(found)
    for number in range(rounds):
        for server, request, name, clients in planned:
            before = server.cpu_s()
            measured = asyncio.run(closed(server.port, request, clients, seconds))
            spent = server.cpu_s() - before
            answered = len(measured.latencies_s)
            if measured.failed or not answered:
                raise SystemExit(f"{name} at {clients} clients: {measured.failed} failed, {answered} answered")
            cells.setdefault((name, clients), []).append(measured)
            # The warm-up's requests are not in `answered`; their share of the time is known.
            cpu.setdefault((name, clients), []).append(spent / (answered * (1 + 0.3 / seconds)) * 1000)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return cells, cpu


def lone(found: list[Running], seconds: float) -> dict[str, float]:
    """What batching adds to the median latency of a client alone, as a share; short loads, each first as often.

    In `measure` a server always follows the same neighbour, and so takes over what that one left behind.
    """
    names = ("predictor", "predictor_unbatched")
    by_name = {one.contender.name: one for one in found}
    if not by_name.keys() >= set(names):
        return {}
    ratios = []
    for number in range(LONE_PAIRS):
        p50 = {}
        for name in names if number % 2 else reversed(names):
            one = by_name[name]
            p50[name] = asyncio.run(closed(one.port, one.request, 1, seconds / 3)).percentile_ms(50)
        ratios.append(p50["predictor"] / p50["predictor_unbatched"])
    return {"batching_cost_c1": statistics.median(ratios) - 1}


def figures(cells: Cells) -> dict[str, float]:
    """The keys of serving.json that compare servers."""

    def ratio(top: tuple[str, int], bottom: tuple[str, int]) -> float | None:
        if top not in cells or bottom not in cells:
            return None
        return statistics.median(a.rate / b.rate for a, b in zip(cells[top], cells[bottom], strict=True))

    found = {
        "predictor_vs_bare_asgi_c16": ratio(("predictor", 16), ("bare_asgi", 16)),
        "predictor_vs_bare_asgi_c64": ratio(("predictor", 64), ("bare_asgi", 64)),
        "predictor_vs_bare_asgi_c1": ratio(("predictor", 1), ("bare_asgi", 1)),
        "predictor_unbatched_vs_bare_asgi_c16": ratio(("predictor_unbatched", 16), ("bare_asgi", 16)),
        "batching_gain_c64": ratio(("predictor", 64), ("predictor_unbatched", 64)),
        "batching_gain_c64_heavy": ratio(("heavy", 64), ("heavy_unbatched", 64)),
        "cascade_gain_c16": ratio(("predictor_cascade", 16), ("predictor", 16)),
    }
    for other in ("stock_kserve", "mlserver", "bentoml", "litserve"):
        own = "predictor_v2" if other == "mlserver" else "predictor"  # it speaks V2 only: the same body to both
        found |= {f"predictor_vs_{other}_c{c}": ratio((own, c), (other, c)) for c in (16, 64)}
    return {name: value for name, value in found.items() if value is not None}


def show(cells: Cells, cpu: dict[tuple[str, int], list[float]], found: dict[str, float]) -> None:
    table = Table("server", "clients", "requests/s", "p50 ms", "p99 ms", "CPU ms/request")
    for (name, clients), measured in cells.items():
        rate, p50, p99 = (
            statistics.median(values)
            for values in zip(*((m.rate, m.percentile_ms(50), m.percentile_ms(99)) for m in measured), strict=True)
        )
        spent = statistics.median(cpu[name, clients])
        table.add_row(name, str(clients), f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{spent:.3f}")
    Console().print(table)
    table = Table("figure", "value", "aim")
    for key, value in found.items():
        table.add_row(key, f"{value:,.3f}", AIMS.get(key, ""))
    Console().print(table)


def compared(model: Served, large: Served, only: set[str]) -> list[tuple[Contender, Served]]:
    """Contenders with their models. All run the full graph, as the others do; `predictor_cascade` is what is served."""
    full = {"MILLRACE_CASCADE": "0"}
    chosen: list[tuple[Contender, Served]] = [
        (ours("predictor", model, **full), model),
        (ours("predictor_unbatched", model, MILLRACE_BATCH_ROWS="1", **full), model),
        (ours("predictor_cascade", model), model),
        (bare_asgi(), model),
        (stock_kserve(), model),
        (ours("heavy", large, **full), large),
        (ours("heavy_unbatched", large, MILLRACE_BATCH_ROWS="1", **full), large),
    ]
    if not only or only & {"mlserver", "bentoml", "litserve"}:
        chosen += [(one, model) for one in others()]
    return [pair for pair in chosen if not only or pair[0].name in only | {"predictor"}]


def two_cores() -> tuple[int, int]:
    """A core for servers and one for the client, which this process takes."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this benchmark wants two cores: one for a server, one for the client")
    os.sched_setaffinity(0, {cores[1]})
    return cores[0], cores[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--home", type=Path, help="a home with a promoted model (default: a small one, made here)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load")
    parser.add_argument("--only", action="append", default=[], metavar="SERVER", help="besides the predictor; repeat")
    parser.add_argument("--no-path", action="store_true", help="leave the whole path out")
    options = parser.parse_args()
    out = settings().home / "bench"
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as scratch, ExitStack() as stack:
        home = options.home.absolute() if options.home else small_home(out / "serving-home")
        model = promoted(home)
        large = heavy(model, Path(scratch) / "heavy")
        pairs = compared(model, large, set(options.only))
        server_core, _ = two_cores()
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        log = Path(scratch) / "servers.log"
        found = [stack.enter_context(running(one, what, server_core, log)) for one, what in pairs]
        cells, cpu = measure(found, options.rounds, options.seconds)
        extra: dict[str, Any] = {
            "predictor_rss_mb": found[0].memory_mb(),
            "predictor_cold_start_s": found[0].cold_start_s,
        } | lone(found, options.seconds)
        stack.close()
        if not options.no_path:
            extra |= path.figures(home, model, options.seconds)
    measured = figures(cells) | extra
    show(cells, cpu, measured)
    raw = {f"{name}_c{clients}_rps": statistics.median(m.rate for m in ms) for (name, clients), ms in cells.items()}
    flat = {key: round(value, 4) for key, value in (measured | raw).items()}
    write_text(out / "serving.json", json.dumps(flat, indent=2) + "\n")


if __name__ == "__main__":
    main()
