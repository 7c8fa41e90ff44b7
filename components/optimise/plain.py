"""The one graph of a task without reviews: network and trees, and how sure a class or a quantity is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from components.optimise import measure
from components.optimise.boosted import Trees, choose_trees, refitted
from components.optimise.config import OptimiseConfig
from components.optimise.decided import Decided
from components.optimise.export import export_class, export_quantity, named, torch_answers, torch_scores
from components.optimise.graphs import FLOAT, check_parity, first_rows, scored_twice, scorer_of
from components.optimise.interval import Interval, calibrate
from components.optimise.rows import ValidationRows, chunks, spread
from millrace.judge.gates import Verdict
from millrace.lake.training_set import TrainingSet
from millrace.registry.model_artifact import load_graph
from millrace.tabular.network import Network, QuantityNetwork
from millrace.tabular.rows import Floats, Inputs


def make_plain(
    network: Network,
    data: TrainingSet,
    rows: ValidationRows,
    folder: Path,
    config: OptimiseConfig,
) -> Decided:
    """Write the graph to `folder`; raises GateBlocked when it is not torch's equal."""
    boosting = config.boosting or data.workload.model.TREES
    trees, tried = choose_trees(network, data, rows, boosting)
    served = refitted(network, data, trees, boosting)

    if isinstance(network, QuantityNetwork):
        scores, told, parity = _quantity(network, rows, folder, config, trees, served)
    else:
        scores, told, parity = _class(network, rows, folder, config, trees, served)
    if rows.judged is not None:
        told["calibration"] = measure.calibration(rows.judged, scores)

    scorers = {FLOAT: scorer_of(folder / FLOAT)}
    variant = {
        "file": FLOAT,
        "size_bytes": (folder / FLOAT).stat().st_size,
        "latency_us": measure.latency_us(scorers, rows.inputs, config.batches, config.repeats)[FLOAT],
        network.watched.name: network.figure(rows.label, scores.astype(np.float64)),
    }
    measured = {"variants": [variant], "parity": parity.to_dict(), "boosting": tried} | told
    return Decided({"served_file": FLOAT, "optimisation": measured}, scores)


Made = tuple[Floats, dict[str, Any], Verdict]
"""scores[V] of trees that have not seen these rows, what else was measured, and whether the graph is torch's equal."""


def _class(
    network: Network,
    rows: ValidationRows,
    folder: Path,
    config: OptimiseConfig,
    trees: Trees | None,
    served: Trees | None,
) -> Made:
    scores = np.concatenate([torch_scores(network, inputs, trees) for inputs in chunks(rows)])
    export_class(network, first_rows(rows), folder / FLOAT, served)

    inputs = _some(rows, config)
    together, alone = scored_twice(scorer_of(folder / FLOAT), inputs)
    parity = check_parity(together, alone, torch_scores(network, inputs, served), config.parity_limit)
    parity.require()
    return scores, {}, parity


def _quantity(
    network: QuantityNetwork,
    rows: ValidationRows,
    folder: Path,
    config: OptimiseConfig,
    trees: Trees | None,
    served: Trees | None,
) -> Made:
    answers = np.concatenate([torch_answers(network, inputs, trees) for inputs in chunks(rows)])
    interval = calibrate(answers, rows.label, network.coverage)
    export_quantity(network, first_rows(rows), folder / FLOAT, served, interval)

    inputs = _some(rows, config)
    together, alone = scored_twice(_ends_of(folder / FLOAT), inputs)
    wanted = widened(torch_answers(network, inputs, served), interval)
    parity = check_parity(together, alone, wanted, config.parity_limit * float(network.scale))
    parity.require()
    return answers[:, 0], {"interval": interval.to_dict()}, parity


def widened(answers: Floats, interval: Interval) -> Floats:
    """answers[B, 3] as they are served: the ends moved, never past the score."""
    score, low, high = answers.T
    below, above = np.float32(interval.below), np.float32(interval.above)
    return np.stack([score, np.minimum(low - below, score), np.maximum(high + above, score)], axis=1)


def _some(rows: ValidationRows, config: OptimiseConfig) -> Inputs:
    sample = spread(len(rows), config.parity_rows)
    return tuple(tensor[sample] for tensor in rows.inputs)


def _ends_of(path: Path) -> measure.Scorer:
    """The graph of a quantity as a function: inputs → [B, 3] score, low, high."""
    session = load_graph(path)

    def answer(*inputs: Floats) -> Floats:
        return np.stack(session.run(["score", "low", "high"], named(inputs)), axis=1)

    return answer
