"""The graphs of a class, measured: float and int8, held against torch; which of them is served.

Model and rows in, files and figures out. How a graph is written is in `export.py`, the trees beside it in `boosted.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.optimise import measure
from components.optimise.boosted import Trees
from components.optimise.config import OptimiseConfig
from components.optimise.export import export_class, named, quantise, torch_scores
from components.optimise.rows import ValidationRows, score_all, spread
from millrace.judge.bootstrap import unit_weights
from millrace.judge.gates import Rule, Verdict
from millrace.registry.model_artifact import load_graph
from millrace.tabular.network import Network
from millrace.tabular.rows import Inputs

FLOAT: Final = "model.onnx"
INT8: Final = "model.int8.onnx"
Scores = NDArray[np.float32]
ALONE_ROWS: Final = 64
"""Rows scored one by one, to see that a score does not depend on its neighbours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One graph and what it does on the validation rows."""

    file: str
    size_bytes: int
    average_precision: float | None
    """None where no validation row is positive."""
    interval: tuple[float, float]
    """95 %, from resampled units."""
    loss_high: float
    """Upper end of what it loses of the float graph's average precision, on the same resamples."""
    max_abs_difference: float
    """Largest difference of a score to the float graph's."""
    latency_us: dict[int, float]
    """Batch size → median time of one call, CPU of one thread."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON; a figure that does not exist is null."""
        ends = [None if math.isnan(end) else end for end in self.interval]
        return asdict(self) | {"interval": ends, "loss_high": None if math.isnan(self.loss_high) else self.loss_high}


def make_graphs(
    network: Network,
    rows: ValidationRows,
    calibration: Inputs,
    folder: Path,
    config: OptimiseConfig,
    trees: Trees | None = None,
) -> Verdict:
    """Write both graphs to `folder`; raises GateBlocked when the float one is not torch's equal."""
    export_class(network, first_rows(rows), folder / FLOAT, trees)
    quantise(folder / FLOAT, calibration, folder / INT8)

    sample = spread(len(rows), config.parity_rows)
    inputs = tuple(tensor[sample] for tensor in rows.inputs)
    wanted = torch_scores(network, inputs, trees)
    parity = check_parity(*scored_twice(scorer_of(folder / FLOAT), inputs), wanted, config.parity_limit)
    parity.require()
    return parity


def first_rows(rows: ValidationRows) -> Inputs:
    """A few, to trace a network with."""
    return tuple(tensor[:2] for tensor in rows.inputs)


def scored_twice(scorer: measure.Scorer, inputs: Inputs) -> tuple[Scores, Scores]:
    """What a graph says of rows[P] together, and of the first of them one by one."""
    alone = [scorer(*(tensor[[row]] for tensor in inputs)) for row in range(min(ALONE_ROWS, len(inputs[0])))]
    return scorer(*inputs), np.concatenate(alone)


def measure_graphs(
    folder: Path, names: Sequence[str], rows: ValidationRows, config: OptimiseConfig
) -> tuple[dict[str, Variant], dict[str, Scores]]:
    """Figures and scores[V] of the graphs in `folder`, timed side by side; the float one is among them."""
    scorers = {name: scorer_of(folder / name) for name in names}
    scores = {name: score_all(scorer, rows) for name, scorer in scorers.items()}
    latency = measure.latency_us(scorers, rows.inputs, config.batches, config.repeats)
    weights = unit_weights(rows.ranked, config.resamples)

    variants = {}
    for name in names:
        found = measure.ranking_interval(rows.ranked, scores[name], weights)
        variants[name] = Variant(
            file=name,
            size_bytes=(folder / name).stat().st_size,
            average_precision=measure.ranking(rows.ranked, scores[name]),
            interval=(found.low, found.high),
            loss_high=measure.ranking_loss(rows.ranked, scores[FLOAT], scores[name], weights).high,
            max_abs_difference=_max_difference(scores[name], scores[FLOAT]),
            latency_us=latency[name],
        )
    return variants, scores


def check_parity(
    got: NDArray[np.float32], alone: NDArray[np.float32], wanted: NDArray[np.float32], limit: float
) -> Verdict:
    """Whether answers[P] of the graph are torch's, and its first ones the same when scored `alone`; NaN fails."""
    torch_detail = f"{len(got)} validation rows, scores of the graph against torch"
    alone_detail = f"{len(alone)} validation rows, scored alone against in a batch"
    rules = (
        Rule("max_abs_difference", _max_difference(got, wanted), "<=", limit, torch_detail),
        Rule("batch_dependence", _max_difference(got[: len(alone)], alone), "<=", limit, alone_detail),
    )
    return Verdict("optimise", rules)


def choose(variants: Mapping[str, Variant], config: OptimiseConfig) -> Variant:
    """The fastest that keeps average precision beyond doubt and is slower at no batch size; else the float one.

    A loss that cannot be measured is not kept.
    """
    plain = variants[FLOAT]
    kept = [plain]
    for variant in variants.values():
        speedups = [plain.latency_us[batch] / variant.latency_us[batch] for batch in config.batches]
        keeps = variant.average_precision is not None and variant.loss_high <= config.ap_budget
        if keeps and max(speedups) >= config.min_speedup and min(speedups) >= 1.0:
            kept.append(variant)

    return min(kept, key=lambda variant: math.prod(variant.latency_us[batch] for batch in config.batches))


def scorer_of(path: Path) -> measure.Scorer:
    """A graph as a function; inputs that it does not read are not given to it."""
    session = load_graph(path)
    reads = {item.name for item in session.get_inputs()}

    def score(*inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        given = {name: tensor for name, tensor in named(inputs).items() if name in reads}
        scores: NDArray[np.float32] = session.run(["score"], given)[0]
        return scores

    return score


def _max_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a.astype(np.float64) - b).max())
