"""What each part of the served model is worth on the folds of a backtest, with intervals.

`python -m benchmarks.model [--home FOLDER]` after `make backtest`, in the same home: takes each fold's model from the
lake, scores its judged rows by the network alone, by the trees alone, by what is served, and by an XGBoost tuned on the
validation rows over the same features; prints the figures and the paired differences, and writes
`<home>/bench/model.json`. Resamples are of cards; the mean over folds resamples every fold by itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from components.evaluate.baselines import XGBOOST
from components.evaluate.classes.baselines import fit_baselines
from components.evaluate.config import class_limits, load_limits
from components.evaluate.window import TestWindow, model_scores, open_ranked
from millrace.judge.bootstrap import Interval, Statistic, interval, unit_weights
from millrace.judge.ranking import Judged, average_precision, roc_auc, unit_precision
from millrace.judge.rows import Floats
from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest, list_manifests
from millrace.observe.progress import track
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import settings
from millrace.tabular.boosting import BoostConfig, columns_of, fit
from millrace.tabular.network import Network
from millrace.tabular.rows import inputs_of
from millrace.tabular.weights import load_network


def _card_precision(rows: Judged, scores: Floats, weights: Floats | None) -> Floats:
    return unit_precision(rows, scores, weights=weights)


STATISTICS: Final[dict[str, Statistic]] = {"AP": average_precision, "AUC": roc_auc, "CP@100": _card_precision}
NETWORK, TREES, SERVED, TUNED = "network", "trees", "served", "tuned XGBoost"
PAIRS: Final = ((SERVED, NETWORK), (SERVED, TREES), (SERVED, TUNED), (NETWORK, TREES), (NETWORK, TUNED))
CHUNK_ROWS: Final = 8192


@dataclass(frozen=True, slots=True)
class Figure:
    """One statistic of one scorer on one fold, and on its resamples."""

    value: float
    draws: Floats


def served_models(lake: Path) -> Iterator[tuple[Manifest, Manifest]]:
    """The newest optimised model of every training set, with that set, by test week."""
    newest: dict[str, tuple[Manifest, Manifest]] = {}
    for model in list_manifests(lake / "models", "model"):
        if "model" in model.parents:
            rows = Manifest.read(lake / "training_sets" / model.parents["training_set"], "training_set")
            newest[rows.facts["test_start"]] = model, rows
    yield from (newest[start] for start in sorted(newest))


def scorers(model: Manifest, week: TestWindow[Judged]) -> dict[str, Floats]:
    """Scores of the judged rows by each contender."""
    network = load_network(model.fetch())
    boosted = fit(network, week.data, BoostConfig())
    rows = week.judged_rows
    baseline = fit_baselines(week.data, rows, class_limits(load_limits(week.data.workload)))[XGBOOST]
    return {
        NETWORK: network_logits(network, week, rows),
        TREES: boosted.margins(columns_of(network, week.data, rows)).astype(np.float64),
        SERVED: model_scores(ModelArtifact.open(model.fetch(), threads=2), week.data, rows),
        TUNED: baseline.answers.point,
    }


@torch.inference_mode()
def network_logits(network: Network, week: TestWindow[Judged], rows: NDArray[np.int64]) -> Floats:
    parts = []
    for at in range(0, len(rows), CHUNK_ROWS):
        arrays = inputs_of(week.data, rows[at : at + CHUNK_ROWS], network.sequence_length)
        parts.append(network(*map(torch.from_numpy, arrays)).double().numpy())
    return np.concatenate(parts)


def figures_of(contenders: Mapping[str, NDArray[Any]], rows: Judged, resamples: int) -> dict[str, dict[str, Figure]]:
    """Scorer → statistic → figure, of each scorer's scores[J]; all share the resamples."""
    weights = unit_weights(rows, resamples)
    return {
        name: {
            key: Figure(statistic(rows, scores, None).item(), statistic(rows, scores, weights))
            for key, statistic in STATISTICS.items()
        }
        for name, scores in contenders.items()
    }


def summary(folds: list[dict[str, dict[str, Figure]]]) -> dict[str, dict[str, Interval]]:
    """Means over folds, and PAIRS of them, one less the other, each with an interval."""
    table = {name: {key: _mean([fold[name][key] for fold in folds]) for key in STATISTICS} for name in folds[0]}
    for one, other in PAIRS:
        table[f"{one} less {other}"] = {
            key: _mean([_less(fold[one][key], fold[other][key]) for fold in folds]) for key in STATISTICS
        }
    return table


def _less(one: Figure, other: Figure) -> Figure:
    return Figure(one.value - other.value, one.draws - other.draws)


def _mean(figures: list[Figure]) -> Interval:
    return interval(float(np.mean([f.value for f in figures])), np.mean([f.draws for f in figures], axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=settings().home)
    parser.add_argument("--resamples", type=int, default=300)
    arguments = parser.parse_args()
    lake = arguments.home / "lake"
    folds: list[dict[str, dict[str, Figure]]] = []
    by_fold = {}
    for model, rows in track(list(served_models(lake)), "folds"):
        week = open_ranked(rows, lake)
        folds.append(figures_of(scorers(model, week), week.judged, arguments.resamples))
        values = {
            name: {key: round(one.value, 4) for key, one in figures.items()} for name, figures in folds[-1].items()
        }
        by_fold[rows.facts["test_start"]] = values
        print(rows.facts["test_start"], values, flush=True)
    table = summary(folds)
    for name, figures in table.items():
        print(f"{name:<28}", "  ".join(f"{key} {value}" for key, value in figures.items()))
    mean = {name: {key: [v.value, v.low, v.high] for key, v in row.items()} for name, row in table.items()}
    write_text(arguments.home / "bench" / "model.json", json.dumps({"folds": by_fold, "mean": mean}, indent=2) + "\n")


if __name__ == "__main__":
    main()
