"""How far real models stay from the limits of the evaluation gate: the evidence that the limits are set from.

`python -m benchmarks.limits HOME [HOME …]` after `make backtest` or `make run` in those homes: judges every fold's
served model with the ordinary evaluation, prints for each rule the worst week, the median and the limit of
the workload, and writes `<home of the settings>/bench/limits.json`. A rule that a good model fails in one week of
eight cries wolf; one that the worst week clears by far cannot fail a bad model. Each evaluation stays in its lake, so
a second run judges nothing twice.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.model import served_models
from components.evaluate.core import evaluate
from millrace.judge.gates import Rule, Verdict
from millrace.lake.atomic import write_text
from millrace.observe.progress import track
from millrace.settings import settings


@dataclass(frozen=True, slots=True)
class Distance:
    """One rule over W weeks: `worst` is the week nearest to the limit, or past it."""

    limit: float
    comparison: str
    worst: float
    median: float
    best: float
    weeks: int
    failed: int


def verdicts(homes: Iterable[Path]) -> list[Verdict]:
    """The verdict on every served model of these homes."""
    pairs = [(home, *pair) for home in homes for pair in served_models(home / "lake")]
    found = [evaluate(model, rows, None, home / "lake") for home, model, rows in track(pairs, "evaluations")]
    return [Verdict.read(evaluation.path("verdict.json")) for evaluation in found]


def distances(found: Iterable[Verdict]) -> dict[str, Distance]:
    """Rule → how its values lie to its limit; a value that was not measured counts as failed only."""
    rules: dict[str, list[Rule]] = defaultdict(list)
    for verdict in found:
        for rule in verdict.rules:
            rules[rule.name].append(rule)
    return {name: _distance(each) for name, each in rules.items() if any(r.measured is not None for r in each)}


def _distance(rules: list[Rule]) -> Distance:
    values = np.array([rule.measured for rule in rules if rule.measured is not None])
    low, high = float(values.min()), float(values.max())
    worst, best = (low, high) if rules[0].comparison in (">=", ">") else (high, low)
    failed = sum(not rule.passed for rule in rules)
    return Distance(rules[0].limit, rules[0].comparison, worst, float(np.median(values)), best, len(rules), failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("homes", nargs="+", type=Path, metavar="HOME", help="a MILLRACE_HOME with backtested models")
    table = Table("rule", "wanted", "worst", "median", "best", "weeks", "failed")
    found = distances(verdicts(parser.parse_args().homes))
    for name, d in found.items():
        figures = (f"{value:.3f}" for value in (d.worst, d.median, d.best))
        table.add_row(name, f"{d.comparison} {d.limit:.3g}", *figures, str(d.weeks), str(d.failed or ""))
    Console().print(table)
    path = settings().home / "bench" / "limits.json"
    write_text(path, json.dumps({name: asdict(d) for name, d in found.items()}, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
