"""Do more models pay? An ensemble of seeds, and specialists behind a router, against the one booster that is served.

`python -m benchmarks.specialists [--home FOLDER]` after `make backtest`, in the same home: for each fold it fits the
contenders on the training rows over the network's columns, mixes each with the network half and half, scores the judged
rows of the test week and prints figures, paired differences with intervals (cards resampled) and what each costs; the
same goes to `<home>/bench/specialists.json`. A specialist learns from its segment only; a segment with fewer than
MIN_FRAUDS frauds is left to the booster that knows all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.model import SERVED, STATISTICS, Figure, figures_of, network_logits, served_models, summary
from components.evaluate.window import TestWindow, open_ranked
from fraud.features import FEATURE_NAMES
from millrace.judge.ranking import Judged
from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest
from millrace.observe.progress import track
from millrace.settings import settings
from millrace.tabular.boosting import BoostConfig, Boosted, columns_of, fitted, sampled
from millrace.tabular.weights import load_network

Floats = NDArray[np.float32]
Segments = NDArray[np.int64]

MIN_FRAUDS: Final = 100
SEEDS: Final = (0, 1, 2)


def _split(feature: str, *edges: float) -> Callable[[Floats], Segments]:
    """features[B, F] → [B] number of the segment between these edges."""
    return lambda features: np.digitize(features[:, FEATURE_NAMES.index(feature)], edges)


ROUTERS: Final[Mapping[str, Callable[[Floats], Segments]]] = {
    "specialists by suspicion of the terminal": _split("terminal_fraud_streak", 0.5),
    "specialists by what the customer spends": _split("customer_mean_amount", 35.0, 70.0),
    "specialists by length of the history": _split("customer_history_count", 30.0),
}


@dataclass(frozen=True, slots=True)
class Contender:
    """Logits[J] of the judged rows, and what they cost."""

    logits: Floats
    fit_cpu_s: float
    nodes: int


def contenders(model: Manifest, week: TestWindow[Judged]) -> dict[str, Contender]:
    """The one booster (`served`), the seeds, and a set of specialists per router."""
    network, data = load_network(model.fetch()), week.data
    rows = data.rows_of("train")
    rows = rows[sampled(data.label[rows], BoostConfig())]
    columns, label = columns_of(network, data, rows), data.label[rows]
    judged = columns_of(network, data, week.judged_rows)
    one = _fit([(columns, label, BoostConfig())])
    more = _fit([(columns, label, BoostConfig(seed=seed)) for seed in SEEDS[1:]])
    found = {
        SERVED: _contender(one, one[0][0].margins(judged)),
        "ensemble of three seeds": _contender(
            (one[0] + more[0], one[1] + more[1]), np.mean([b.margins(judged) for b in one[0] + more[0]], axis=0)
        ),
    }
    for name, route in ROUTERS.items():
        learned, asked = route(data.features[rows]), route(data.features[week.judged_rows])
        found[name] = _specialists(one[0][0], columns, label, learned, judged, asked)
    return found


def _specialists(
    general: Boosted, columns: Floats, label: NDArray[np.int8], learned: Segments, judged: Floats, asked: Segments
) -> Contender:
    """`learned[B]` is the segment of each training row, `asked[J]` of each judged one."""
    scores = general.margins(judged)
    able = [s for s in np.unique(learned) if (label[learned == s] == 1).sum() >= MIN_FRAUDS]
    fit = _fit([(columns[learned == s], label[learned == s], BoostConfig()) for s in able])
    for segment, booster in zip(able, fit[0], strict=True):
        mine = asked == segment
        if mine.any():
            scores[mine] = booster.margins(judged[mine])
    return _contender(fit, scores)


def _fit(jobs: list[tuple[Floats, NDArray[np.int8], BoostConfig]]) -> tuple[list[Boosted], float]:
    began = time.process_time()
    return [fitted(*job) for job in jobs], time.process_time() - began


def _contender(fit: tuple[list[Boosted], float], scores: Floats) -> Contender:
    nodes = sum(len(booster.booster.trees_to_dataframe()) for booster in fit[0])
    return Contender(scores, fit[1], nodes)


def judged(
    model: Manifest, week: TestWindow[Judged], resamples: int
) -> tuple[dict[str, dict[str, Figure]], dict[str, tuple[float, int]]]:
    """Contender → statistic → figure beside the network, and contender → CPU seconds of its fit, nodes."""
    found = contenders(model, week)
    deep = network_logits(load_network(model.fetch()), week, week.judged_rows)
    mixed = {name: (deep + contender.logits) / 2 for name, contender in found.items()}
    costs = {name: (contender.fit_cpu_s, contender.nodes) for name, contender in found.items()}
    return figures_of(mixed, week.judged, resamples), costs


def show(found: Mapping[str, Mapping[str, Any]], costs: Mapping[str, tuple[float, float]]) -> None:
    table = Table("with the network", *(f"{key}, less the one" for key in STATISTICS), "fit, CPU s", "nodes")
    for name, (cpu_s, nodes) in costs.items():
        less = found.get(f"{SERVED} less {name}")
        cells = [f"{-i.value:+.4f} [{-i.high:+.4f}, {-i.low:+.4f}]" for i in less.values()] if less else ["–"] * 3
        table.add_row("one booster" if name == SERVED else name, *cells, f"{cpu_s:.1f}", f"{nodes:,.0f}")
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=settings().home)
    parser.add_argument("--resamples", type=int, default=300)
    options = parser.parse_args()
    lake = options.home / "lake"
    pairs = list(served_models(lake))
    folds = [judged(model, open_ranked(rows, lake), options.resamples) for model, rows in track(pairs, "folds")]
    found = summary([figures for figures, _ in folds])
    costs = {name: tuple(np.mean([cost[name] for _, cost in folds], axis=0)) for name in folds[0][1]}
    show(found, costs)
    document = {
        "figures": {name: {key: asdict(figure) for key, figure in row.items()} for name, row in found.items()},
        "costs": {name: {"fit_cpu_s": cpu_s, "nodes": nodes} for name, (cpu_s, nodes) in costs.items()},
        "folds": len(folds),
    }
    path = options.home / "bench" / "specialists.json"
    write_text(path, json.dumps(document, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
