"""What `make run` costs from a fresh home: seconds and memory of the first run, seconds of one with nothing changed.

`python -m benchmarks.run` writes `.millrace/bench/run.json`. Memory is the sum over the run and the servers it starts,
sampled twice a second as proportional set size, so that pages which processes share count once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from millrace.lake.atomic import write_text
from millrace.settings import settings

SAMPLE_S: Final = 0.5
TARGETS: Final = {"wall_s": 480, "peak_rss_mb": 6144, "again_wall_s": 30}
"""What the run is meant to stay under."""


def measured(environment: dict[str, str], arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak MiB of one run."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "run", *arguments], env=environment)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, memory_mb(environment["MILLRACE_HOME"]))
        time.sleep(SAMPLE_S)
    if process.returncode:
        raise SystemExit(f"the run failed with status {process.returncode}; see above")
    return time.perf_counter() - start, peak


def memory_mb(home: str) -> float:
    """MiB of every process of this home: servers leave the tree of the program that started them."""
    total = 0
    for process in psutil.process_iter():
        try:
            if process.environ().get("MILLRACE_HOME") == home:
                total += process.memory_full_info().pss
        except psutil.Error:
            continue  # ended meanwhile, or somebody else's
    return total / 2**20


def main() -> None:
    """Run twice, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--data", default="", help="raw events (default: simulated)")
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        environment = os.environ | {"MILLRACE_HOME": folder}
        arguments = ["--data", data] if data else []
        try:
            wall_s, peak = measured(environment, arguments)
            subprocess.run([sys.executable, "-m", "serving.local", "down"], env=environment, check=True)
            again_s, _ = measured(environment, arguments)
        finally:
            subprocess.run([sys.executable, "-m", "serving.local", "down"], env=environment, check=False)
    figures = {"wall_s": round(wall_s, 1), "peak_rss_mb": round(peak), "again_wall_s": round(again_s, 1)}
    show(figures)
    write_text(settings().home / "bench" / "run.json", json.dumps(figures, indent=2) + "\n")


def show(figures: dict[str, Any]) -> None:
    """Figures beside what they are meant to stay under."""
    table = Table("make run", "figure", "aim")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}", f"≤ {TARGETS[name]:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
