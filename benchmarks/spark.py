"""What features cost on Spark (local mode, Java 17) beside DuckDB: the same rows, the same code, interleaved.

`python -m benchmarks.spark [--quick]` needs the environment of `make spark-env`. CPU seconds are those of the build by
every process that took part (driver, JVM, Python workers), Spark's start included, Python's imports left out.
Figures go to `.millrace/bench/spark.json`; docs/scale.md draws the crossover from them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.features import CUSTOMERS, DAYS, snapshot
from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest
from millrace.lake.provenance import hardware
from millrace.settings import settings

SHARES: Final = (1, 2, 4)
"""Quarters of the customers, so that what a row costs is told from what a start costs."""
CORES: Final = 2
MEMORY_GB: Final = 4.0
SPARK: Final = Path(
    os.environ.get("MILLRACE_SPARK_PYTHON", Path(__file__).parents[1] / ".venv-spark" / "bin" / "python")
)


def work(engine: str, source: Manifest, scratch: Path) -> dict[str, float]:
    """One build of everything into a fresh folder; runs in a process of the engine's environment."""
    from components.build_features.core import build_features

    started = cpu_s(), time.perf_counter()
    chosen: dict[str, Any] = {"threads": CORES, "memory_limit_gb": MEMORY_GB}
    if engine == "spark":
        chosen = {"spark_master": f"local[{CORES}]"}
    built = build_features(source, scratch, history_length=settings().history_length, **chosen)
    return {
        "rows": built.facts["rows"],
        "wall_s": time.perf_counter() - started[1],
        "cpu_s": cpu_s() - started[0],
    }


def cpu_s() -> float:
    """Of this process, those below it (the JVM stays until the end), and theirs that have ended."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:4]) for process in family)


def measure(engine: str, source: Manifest) -> dict[str, float]:
    python = str(SPARK) if engine == "spark" else sys.executable
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as scratch:
        command = [python, "-m", "benchmarks.spark", "--work", engine, source.uri, scratch]
        environment = os.environ | {"SPARK_LOCAL_DIRS": scratch}
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return result


def report(quick: bool, rounds: int) -> dict[str, Any]:
    """Medians for each engine and size, and what Spark costs once and for each row above DuckDB."""
    sources = {share: snapshot(settings(), CUSTOMERS[quick] * share // 4, DAYS[quick]) for share in SHARES}
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for share, source in sources.items():
            for engine in ("duckdb", "spark"):
                runs.setdefault((engine, share), []).append(measure(engine, source))
                print(engine, json.dumps(runs[engine, share][-1]), flush=True)
    sizes = [
        {"engine": engine, "rows": taken[0]["rows"]}
        | {key: statistics.median(run[key] for run in taken) for key in ("cpu_s", "wall_s")}
        for (engine, _), taken in runs.items()
    ]
    return {"runs": sizes, "cores": CORES, "rounds": rounds, "quick": quick} | {
        f"{engine}_{key}": value for engine in ("duckdb", "spark") for key, value in line_of(sizes, engine).items()
    }


def line_of(sizes: list[dict[str, Any]], engine: str) -> dict[str, float]:
    """CPU seconds as a start and a price for a million rows, from the smallest and the largest run."""
    mine = sorted((run for run in sizes if run["engine"] == engine), key=lambda run: run["rows"])
    small, large = mine[0], mine[-1]
    slope = (large["cpu_s"] - small["cpu_s"]) / (large["rows"] - small["rows"])
    return {"start_cpu_s": small["cpu_s"] - slope * small["rows"], "cpu_s_a_million_rows": slope * 1e6}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a small simulation: a minute instead of ten")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each engine and size (default 1)")
    parser.add_argument("--work", nargs=3, metavar=("ENGINE", "SNAPSHOT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        engine, source, scratch = options.work
        print(json.dumps(work(engine, Manifest.read(source, "snapshot"), Path(scratch))))
        return 0
    if not SPARK.is_file():
        parser.error(f"{SPARK} is not there: make spark-env, or name a Python with pyspark in MILLRACE_SPARK_PYTHON")
    path = settings().home / "bench" / "spark.json"
    figures = report(options.quick, options.rounds) | {"hardware": hardware()}
    write_text(path, json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2), f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
