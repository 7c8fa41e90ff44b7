"""What features cost: this stack against plain pandas on the same rows, interleaved, and how cost grows with the rows.

`python -m benchmarks.features [--quick]` prints a table and writes `.millrace/bench/features.json`. CPU seconds are
those of the work, reading and writing Parquet included, imports left out, on both sides; every run is its own process.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest
from millrace.settings import Settings, settings

ROUNDS: Final = 3
"""Runs of ours; each way of pandas runs once, between them."""
BESIDE: Final = "1x"
"""The size that pandas does: of all rows it would keep every terminal at every refresh, past 20 GB."""
PANDAS: Final = ("pandas", "pandas vectorised")
CUSTOMERS: Final = {False: 5_000, True: 400}
"""By --quick: customers of the largest run, with twice as many terminals; 1x and 2x are a quarter and half of it."""
DAYS: Final = {False: 183, True: 60}


def snapshot(here: Settings, customers: int, days: int) -> Manifest:
    """Simulated and ingested once, then kept under `bench/`."""
    from components.ingest.config import IngestConfig
    from components.ingest.core import ingest
    from fraud.simulator import SimulationConfig, write

    folder = here.home.resolve() / "bench"
    raw = folder / "data" / f"{customers}x{days}"
    radius = 5.0 * math.sqrt(5_000 / customers)  # as many terminals within reach, however few there are
    write(SimulationConfig(customers=customers, terminals=2 * customers, days=days, radius=radius), raw)
    return ingest(str(raw), folder / "lake", IngestConfig(workload="fraud", pseudonym_key=here.pseudonym_secret()))


def measure(side: str, source: Manifest) -> dict[str, float]:
    """One build of everything into a fresh folder, by a process of its own."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as scratch:
        command = [sys.executable, "-m", "benchmarks.features", "--work", side, source.uri, scratch]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return result


def work(side: str, source: Manifest, scratch: Path) -> dict[str, float]:
    """What `measure` runs: import, note the clock, build."""
    here = settings()
    if side.startswith("pandas"):
        from benchmarks import features_pandas

        start = _cpu_s(), time.perf_counter()
        files, vectorised = source.table("events"), side.endswith("vectorised")
        rows = features_pandas.build(files, scratch, here.history_length, vectorised=vectorised)
    else:
        from components.build_features.core import build_features

        start = _cpu_s(), time.perf_counter()
        limits = {"threads": here.threads, "memory_limit_gb": here.memory_limit_gb}
        built = build_features(source, scratch, history_length=here.history_length, **limits)  # type: ignore[arg-type]
        rows = built.facts["rows"]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_s": _cpu_s() - start[0], "wall_s": time.perf_counter() - start[1], "peak_mb": peak_mb, "rows": rows}


def report(here: Settings, quick: bool) -> dict[str, Any]:
    """All runs, interleaved, so that a busy machine is busy for both."""
    sizes = {f"{share}x": CUSTOMERS[quick] * share // 4 for share in (1, 2, 4)}
    sources = {name: snapshot(here, customers, DAYS[quick]) for name, customers in sizes.items()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*sizes, *PANDAS)}
    for round_ in range(ROUNDS):
        for name, source in sources.items():
            runs[name].append(measure("ours", source))
        if round_ < len(PANDAS):
            runs[PANDAS[round_]].append(measure(PANDAS[round_], sources[BESIDE]))
    show(runs)
    cpu = {name: statistics.median(run["cpu_s"] for run in results) for name, results in runs.items()}
    growth = math.log(runs["4x"][0]["rows"] / runs["1x"][0]["rows"])
    return {
        "cpu_s": cpu["4x"],
        "vs_pandas": cpu["pandas"] / cpu[BESIDE],
        "vs_pandas_vectorised": cpu["pandas vectorised"] / cpu[BESIDE],
        "pandas_cpu_s": cpu["pandas"],
        "pandas_vectorised_cpu_s": cpu["pandas vectorised"],
        "rows": runs["4x"][0]["rows"],
        "peak_mb": max(run["peak_mb"] for run in runs["4x"]),
        **{f"cpu_s_{name}": cpu[name] for name in sizes},
        **{f"rows_{name}": runs[name][0]["rows"] for name in sizes},
        "growth_exponent": math.log(cpu["4x"] / cpu["1x"]) / growth,
    }


def show(runs: dict[str, list[dict[str, float]]]) -> None:
    table = Table("run", "rows", "CPU s (median)", "range", "wall s", "peak MB", "µs a row")
    for name, results in runs.items():
        cpu = [run["cpu_s"] for run in results]
        rows, median = results[0]["rows"], statistics.median(cpu)
        spread = f"{min(cpu):.1f} … {max(cpu):.1f}"
        wall, peak = (statistics.median(run[key] for run in results) for key in ("wall_s", "peak_mb"))
        row = (
            name,
            f"{rows:,.0f}",
            f"{median:.2f}",
            spread,
            f"{wall:.1f}",
            f"{peak:.0f}",
            f"{median / rows * 1e6:.1f}",
        )
        table.add_row(*row)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a small simulation: seconds instead of minutes")
    parser.add_argument("--work", nargs=3, metavar=("SIDE", "SNAPSHOT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        side, source, scratch = options.work
        print(json.dumps(work(side, Manifest.read(source, "snapshot"), Path(scratch))))
        return 0
    here = settings()
    figures = report(here, options.quick)
    path = here.home / "bench" / "features.json"
    write_text(path, json.dumps(figures | {"quick": options.quick}, indent=2) + "\n")
    print(f"{figures['cpu_s']:.1f} CPU s, {figures['vs_pandas']:.1f} times less than pandas; written to {path}")
    return 0


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    raise SystemExit(main())
