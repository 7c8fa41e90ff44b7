"""Make a trained model servable: trained folder and training set in, folder with graphs and threshold out.

Exports the graph (`export.py`), holds it against torch, tries int8 and keeps it only where it is as good and faster,
measures (`measure.py`), sets the decision threshold at the review capacity, and leaves the reference window for drift.
Everything is judged on the validation rows; test rows are not touched.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.optimise import measure
from components.optimise.boosted import WEIGHTS, BoostConfig, Trees, fit
from components.optimise.export import export_onnx, quantise, torch_scores
from millrace.artifacts import MANIFEST, Manifest, content_id, hash_files
from millrace.atomic import replacing_folder
from millrace.errors import InvalidInput
from millrace.fraud.features import FEATURE_NAMES
from millrace.fraud.model import FraudModel, load_model
from millrace.fraud.training_set import TrainingSet
from millrace.gates import Rule, Verdict
from millrace.metrics import ROW_COLUMNS, Judged, judged
from millrace.model_artifact import MODEL_JSON, ModelSpec, load_graph
from millrace.progress import log
from millrace.provenance import code_of, code_version

FLOAT, INT8 = "model.onnx", "model.int8.onnx"
REFERENCE: Final = "reference_window.parquet"
CHUNK_ROWS: Final = 1024
ALONE_ROWS: Final = 64
"""Rows scored one by one, to see that a score does not depend on its neighbours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiseConfig:
    """Limits that decide what is served."""

    review_capacity: int = 100
    """Cards that analysts can look at in a day."""
    max_review_share: float = 0.05
    """At most this part of a day's cards is reviewed, so that the threshold means something in a small world."""
    parity_limit: float = 1e-4
    """Largest difference between a score of the graph and of torch."""
    parity_rows: int = 4096
    ap_budget: float = 0.002
    """Average precision that int8 may lose on the validation rows."""
    min_speedup: float = 1.1
    """How much faster int8 must be at one of `batches`, without being slower at another."""
    batches: tuple[int, ...] = (1, 64)
    """Batch sizes whose latency is measured, rows."""
    repeats: int = 100
    """Timed calls per graph and batch size."""
    reference_rows: int = 10_000
    """Rows of the reference window."""
    calibration_rows: int = 1024
    """Training rows that fix the ranges of int8."""
    seed: int = 0
    """Of the sample in the reference window."""
    boosting: BoostConfig = field(default_factory=BoostConfig)
    """Trees that are served beside the deep model, where validation rows say so."""


@dataclass(frozen=True, slots=True)
class ValidationRows:
    """The V rows everything here is judged on."""

    features: NDArray[np.float32]  # [V, F]
    history: NDArray[np.float32]  # [V, L, C]
    judged: Judged


Inputs = tuple[NDArray[np.float32], NDArray[np.float32]]
"""features[B, F], history[B, L, C]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One graph and what it does on the validation rows."""

    file: str
    size_bytes: int
    average_precision: float | None
    max_abs_difference: float
    """Largest difference of a score to torch's."""
    latency_us: dict[int, float]
    """Batch size → median time of one call, one thread."""


@dataclass(frozen=True, slots=True)
class Graphs:
    """What was exported, by file name."""

    variants: dict[str, Variant]
    scores: dict[str, NDArray[np.float32]]  # [V] on the validation rows
    parity: Verdict


def optimise(model: Manifest, training_set: Manifest, lake: Path, config: OptimiseConfig) -> Manifest:
    """The servable model of a trained one, from the lake where it exists already.

    Raises GateBlocked when the graph does not reproduce torch, InvalidInput when there are no validation rows.
    """
    code = code_of(Path(__file__).parent)
    inputs = {"model": model.id, "training_set": training_set.id, "config": asdict(config), "code": code}
    folder = lake.resolve() / "models" / content_id(inputs)
    if (folder / MANIFEST).is_file():
        log("optimise: already done", model=folder.name)
        return Manifest.read(folder, "model")
    model.verify()
    training_set.verify()
    spec = ModelSpec.read(model.folder)
    spec.require_contract()
    data = TrainingSet(training_set)
    rows = validation_rows(data, spec.sequence_length)
    with replacing_folder(folder) as aside:
        for name in model.files:
            shutil.copyfile(model.path(name), aside / name)
        network = load_model(model.folder)
        trees, tried = choose_trees(network, data, rows, config.boosting)
        calibration = calibration_rows(data, spec.sequence_length, config)
        graphs = make_graphs(network, rows, calibration, aside, config, trees)
        decided = _decide(graphs, rows, config)
        decided["optimisation"]["boosting"] = tried
        _write_reference(aside, rows, graphs.scores[decided["served_file"]], config)
        _describe(aside, decided)
        facts = (
            model.facts
            | {"name": spec.name, "code_version": code_version()}
            | {key: decided[key] for key in ("served_file", "decision_threshold")}
        )
        parents = model.parents | {"model": model.id, "training_set": training_set.id}
        files = hash_files(aside)
        result = Manifest(kind="model", id=folder.name, uri=str(folder), parents=parents, files=files, facts=facts)
        result.write(aside / MANIFEST)
    _report(result, decided)
    return Manifest.read(folder, "model")


def validation_rows(data: TrainingSet, length: int) -> ValidationRows:
    """Inputs and truth of the labelled validation rows; raises InvalidInput when there are none."""
    numbers = data.rows_of("validation")
    numbers = numbers[data.label[numbers] >= 0]
    if not len(numbers):
        raise InvalidInput(f"training set {data.manifest.id} has no labelled validation rows. Assemble more days.")
    features, history = data.batch(numbers, length)
    table = data.table([*ROW_COLUMNS, "amount_cents"]).take(pa.array(numbers))
    return ValidationRows(features, history, judged(table, np.ones(len(numbers), bool)))


def calibration_rows(data: TrainingSet, length: int, config: OptimiseConfig) -> Inputs:
    """Training rows that fix the ranges of the int8 graph, spread evenly over the training days."""
    numbers = data.rows_of("train")
    if not len(numbers):
        raise InvalidInput(f"training set {data.manifest.id} has no training rows. Assemble more days.")
    return data.batch(numbers[_spread(len(numbers), config.calibration_rows)], length)


def choose_trees(
    model: FraudModel, data: TrainingSet, rows: ValidationRows, config: BoostConfig
) -> tuple[Trees | None, dict[str, Any]]:
    """The trees to serve beside the model (None: none), and the validation average precision of each weight tried."""
    if config.rounds < 1:
        return None, {}
    booster = fit(model, data, config)
    tried: dict[float, float | None] = {}
    for weight in WEIGHTS:
        trees = Trees(booster, weight)
        starts = range(0, len(rows.features), CHUNK_ROWS)
        parts = [
            torch_scores(model, rows.features[at : at + CHUNK_ROWS], rows.history[at : at + CHUNK_ROWS], trees)
            for at in starts
        ]
        tried[weight] = measure.ranking(rows.judged, np.concatenate(parts))
    best = max(WEIGHTS, key=lambda weight: tried[weight] or 0.0)
    chosen = Trees(booster, best) if best and tried[best] is not None else None
    return chosen, {"weight": best if chosen else 0.0, "average_precision": tried, "rounds": config.rounds}


def make_graphs(
    model: FraudModel,
    rows: ValidationRows,
    calibration: Inputs,
    folder: Path,
    config: OptimiseConfig,
    trees: Trees | None = None,
) -> Graphs:
    """Write both graphs to `folder` and measure them; raises GateBlocked when the float one is not torch's equal."""
    export_onnx(model, rows.features[:2], rows.history[:2], folder / FLOAT, trees)
    quantise(folder / FLOAT, *calibration, folder / INT8)
    scorers = {name: _scorer(folder / name) for name in (FLOAT, INT8)}
    scores = {name: score_all(scorer, rows) for name, scorer in scorers.items()}
    sample = _spread(len(rows.features), config.parity_rows)
    wanted = torch_scores(model, rows.features[sample], rows.history[sample], trees)
    alone = np.concatenate([scorers[FLOAT](rows.features[[i]], rows.history[[i]]) for i in sample[:ALONE_ROWS]])
    parity = check_parity(scores[FLOAT][sample], wanted, alone, config.parity_limit)
    parity.require()
    latency = measure.latency_us(scorers, rows.features, rows.history, config.batches, config.repeats)
    variants = {
        name: Variant(
            file=name,
            size_bytes=(folder / name).stat().st_size,
            average_precision=measure.ranking(rows.judged, scores[name]),
            max_abs_difference=_max_difference(scores[name][sample], wanted),
            latency_us=latency[name],
        )
        for name in scorers
    }
    return Graphs(variants, scores, parity)


def check_parity(
    got: NDArray[np.float32], wanted: NDArray[np.float32], alone: NDArray[np.float32], limit: float
) -> Verdict:
    """Whether scores[P] of the graph are torch's, and its first ones the same when scored `alone`; NaN fails."""
    torch_detail = f"{len(got)} validation rows, scores of the graph against torch"
    alone_detail = f"{len(alone)} validation rows, scored alone against in a batch"
    rules = (
        Rule("max_abs_difference", _max_difference(got, wanted), "<=", limit, torch_detail),
        Rule("batch_dependence", _max_difference(got[: len(alone)], alone), "<=", limit, alone_detail),
    )
    return Verdict("optimise", rules)


def choose(plain: Variant, small: Variant, config: OptimiseConfig) -> Variant:
    """`small` where it keeps average precision, is faster somewhere and slower nowhere; else `plain`."""
    if plain.average_precision is None or small.average_precision is None:
        return plain  # nothing to judge the loss by
    keeps = plain.average_precision - small.average_precision <= config.ap_budget
    speedups = [plain.latency_us[batch] / small.latency_us[batch] for batch in config.batches]
    return small if keeps and max(speedups) >= config.min_speedup and min(speedups) >= 1.0 else plain


def score_all(scorer: measure.Scorer, rows: ValidationRows) -> NDArray[np.float32]:
    """scores[V], a bounded number of rows at a time."""
    starts = range(0, len(rows.features), CHUNK_ROWS)
    parts = [scorer(rows.features[s : s + CHUNK_ROWS], rows.history[s : s + CHUNK_ROWS]) for s in starts]
    return np.concatenate(parts)


def _scorer(path: Path) -> measure.Scorer:
    session = load_graph(path)

    def score(features: NDArray[np.float32], history: NDArray[np.float32]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = session.run(["score"], {"features": features, "history": history})[0]
        return scores

    return score


def _max_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a.astype(np.float64) - b).max())


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` places out of `count`, evenly spread."""
    return np.linspace(0, count - 1, min(wanted, count)).astype(np.int64)


def _decide(graphs: Graphs, rows: ValidationRows, config: OptimiseConfig) -> dict[str, Any]:
    """What `model.json` gains: the graph to serve, the threshold for its scores, and every figure behind them."""
    served = choose(graphs.variants[FLOAT], graphs.variants[INT8], config)
    scores = graphs.scores[served.file]
    threshold = measure.review_threshold(rows.judged, scores, config.review_capacity, config.max_review_share)
    return {
        "served_file": served.file,
        "decision_threshold": threshold.value,
        "optimisation": {
            "variants": [asdict(variant) for variant in graphs.variants.values()],
            "parity": graphs.parity.to_dict(),
            "threshold": threshold.to_dict(),
            "calibration": measure.calibration(rows.judged, scores),
        },
    }


def _write_reference(folder: Path, rows: ValidationRows, scores: NDArray[np.float32], config: OptimiseConfig) -> None:
    count = len(scores)
    rng = np.random.default_rng(config.seed)
    sample = np.sort(rng.choice(count, min(config.reference_rows, count), replace=False))
    columns = {name: rows.features[sample, index] for index, name in enumerate(FEATURE_NAMES)}
    pq.write_table(pa.table(columns | {"score": scores[sample]}), folder / REFERENCE, compression="zstd")


def _describe(folder: Path, decided: dict[str, Any]) -> None:
    """Add to the trained `model.json`, keeping what training wrote; the int8 graph stays only where it is served."""
    if decided["served_file"] != INT8:
        (folder / INT8).unlink()
    path = folder / MODEL_JSON
    document = json.loads(path.read_text()) | decided
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def _report(model: Manifest, decided: dict[str, Any]) -> None:
    for variant in decided["optimisation"]["variants"]:
        times = {f"us_{batch}": time for batch, time in variant["latency_us"].items()}
        log("optimise: graph", file=variant["file"], ap=variant["average_precision"], **times)
    threshold = decided["optimisation"]["threshold"]
    if threshold["scaled_down"]:
        log("optimise: few cards a day; the threshold reviews a share of them", capacity=threshold["review_capacity"])
    value, cards = threshold["value"], threshold["cards_per_day"]
    log("optimise: done", model=model.id, served=decided["served_file"], threshold=value, cards_per_day=cards)
