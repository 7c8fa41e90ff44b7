"""Make a trained model servable: trained folder and training set in, folder with graphs and threshold out.

Network and trees become graphs, measured (`graphs.py`); students learn from them (`student.py`), one of them answers
first where the band of a cascade allows it (`cascade.py`). The decision threshold is set at the review capacity, and
the reference window left for drift. Everything is judged on the validation rows; test rows are not touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.optimise import measure
from components.optimise.boosted import choose_trees
from components.optimise.cascade import CASCADE, Band, choose_band
from components.optimise.config import OptimiseConfig
from components.optimise.graphs import FLOAT, INT8, Scores, choose, make_graphs, measure_graphs, scorer_of
from components.optimise.rows import ValidationRows, calibration_rows, validation_rows
from components.optimise.student import (
    STUDENT,
    StudentConfig,
    distil,
    lessons,
    node_count,
    write_cheap,
    write_student,
)
from fraud.features import FEATURE_NAMES
from fraud.model import FraudModel, load_model
from fraud.training_set import TrainingSet
from millrace.lake.atomic import replacing_folder
from millrace.lake.manifest import MANIFEST, Manifest, content_id, hash_files
from millrace.lake.provenance import code_of, code_version
from millrace.observe.progress import log
from millrace.registry.model_artifact import MODEL_JSON, ModelSpec

REFERENCE: Final = "reference_window.parquet"


def optimise(model: Manifest, training_set: Manifest, lake: Path, config: OptimiseConfig) -> Manifest:
    """The servable model of a trained one, from the lake where it exists already.

    Raises GateBlocked when the graph does not reproduce torch, InvalidInput when there are no validation rows.
    """
    code = code_of(Path(__file__).parent)
    inputs = {"model": model.id, "training_set": training_set.id, "config": asdict(config), "code": code}
    folder = lake.resolve() / "models" / content_id(inputs)
    if (done := Manifest.find(folder, "model")) is not None:
        log("optimise: already done", model=folder.name)
        return done
    model.verify()
    training_set.verify()
    spec = ModelSpec.read(model.folder)
    spec.require_contract()
    data = TrainingSet(training_set)
    with replacing_folder(folder) as aside:
        for name in model.files:
            shutil.copyfile(model.path(name), aside / name)
        decided = _make(load_model(model.folder), data, aside, config)
        facts = (
            model.facts
            | {"name": spec.name, "code_version": code_version()}
            | {key: decided[key] for key in ("served_file", "decision_threshold")}
        )
        parents = model.parents | {"model": model.id, "training_set": training_set.id}
        files = hash_files(aside)
        result = Manifest(
            kind="model",
            id=folder.name,
            workload=model.workload,
            uri=str(folder),
            parents=parents,
            files=files,
            facts=facts,
        )
        result.write(aside / MANIFEST)
    _report(result, decided)
    return Manifest.read(folder, "model")


def _make(network: FraudModel, data: TrainingSet, folder: Path, config: OptimiseConfig) -> dict[str, Any]:
    """Fill `folder`; what `model.json` gained."""
    length = network.spec.sequence_length
    rows = validation_rows(data, length)
    trees, tried = choose_trees(network, data, rows, config.boosting)
    calibration = calibration_rows(data, length, config.calibration_rows)
    parity = make_graphs(network, rows, calibration, folder, config, trees)
    nodes = _make_students(network, data, rows, folder, config.student)
    variants, scores = measure_graphs(folder, (FLOAT, INT8, *nodes), rows, config)
    served = choose({name: variants[name] for name in variants if name != CASCADE}, config).file
    limits = (config.review_capacity, config.max_review_share)
    threshold = measure.review_threshold(rows.judged, scores[served], *limits)
    band, final = _with_cascade(rows, scores, served, threshold.value, config)
    documents = {name: variant.to_dict() for name, variant in variants.items()}
    for name, count in nodes.items():
        own = measure.review_threshold(rows.judged, scores[name], *limits)
        documents[name] |= {"parameters": count, "decision_threshold": own.value}
    if STUDENT in nodes:
        alone = choose_band(rows.judged, scores[STUDENT], scores[served], threshold.value, config.cascade).cascade
        documents[STUDENT]["certain_below"] = alone and alone.lower
    decided: dict[str, Any] = {
        "served_file": served,
        "decision_threshold": threshold.value,
        "optimisation": {
            "variants": list(documents.values()),
            "parity": parity.to_dict(),
            "threshold": threshold.to_dict(),
            "calibration": measure.calibration(rows.judged, final),
            "boosting": tried,
            "cascade": band.to_dict(),
        },
    }
    if band.cascade is not None:
        decided["cascade"] = asdict(band.cascade)
    _write_reference(folder, rows, final, config)
    _describe(folder, decided)
    return decided


def _make_students(
    network: FraudModel, data: TrainingSet, rows: ValidationRows, folder: Path, config: StudentConfig
) -> dict[str, int]:
    """Teach two students by the float graph and write them: file → nodes of its trees."""
    if config.full.rounds < 1:
        return {}
    learned = lessons(network, data, scorer_of(folder / FLOAT), config)
    student = distil(learned, config.full)
    cheap = distil(learned, config.cheap, len(FEATURE_NAMES))
    write_student(network, student, rows.features[:2], rows.history[:2], folder / STUDENT)
    write_cheap(cheap, folder / CASCADE)
    return {STUDENT: node_count(student), CASCADE: node_count(cheap)}


def _with_cascade(
    rows: ValidationRows, scores: Mapping[str, Scores], served: str, threshold: float, config: OptimiseConfig
) -> tuple[Band, Scores]:
    """The band, and scores[V] as they will be served: the rule is the one that `ModelArtifact` applies."""
    full = scores[served]
    if CASCADE not in scores:
        return Band(None, []), full
    cheap = scores[CASCADE]
    band = choose_band(rows.judged, cheap, full, threshold, config.cascade)
    if band.cascade is None or not config.cascade.in_use:
        return band, full
    return band, np.where(band.cascade.is_sure(cheap), cheap, full)


def _write_reference(folder: Path, rows: ValidationRows, scores: Scores, config: OptimiseConfig) -> None:
    count = len(scores)
    rng = np.random.default_rng(config.seed)
    sample = np.sort(rng.choice(count, min(config.reference_rows, count), replace=False))
    columns = {name: rows.features[sample, index] for index, name in enumerate(FEATURE_NAMES)}
    pq.write_table(pa.table(columns | {"score": scores[sample]}), folder / REFERENCE, compression="zstd")


def _describe(folder: Path, decided: dict[str, Any]) -> None:
    """Add to the trained `model.json`, keeping what training wrote; int8 and cheap stay only where they serve."""
    if decided["served_file"] != INT8:
        (folder / INT8).unlink()
    if "cascade" not in decided:
        (folder / CASCADE).unlink(missing_ok=True)
    path = folder / MODEL_JSON
    document = json.loads(path.read_text()) | decided
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def _report(model: Manifest, decided: dict[str, Any]) -> None:
    for variant in decided["optimisation"]["variants"]:
        times = {f"us_{batch}": time for batch, time in variant["latency_us"].items()}
        log("optimise: graph", file=variant["file"], ap=variant["average_precision"], **times)
    cascade = decided["optimisation"]["cascade"]
    for tried in cascade["tried"][-1:]:
        log("optimise: cascade", why_not=cascade["why_not"], **tried)
    threshold = decided["optimisation"]["threshold"]
    if threshold["scaled_down"]:
        log("optimise: few cards a day; the threshold reviews a share of them", capacity=threshold["review_capacity"])
    value, cards = threshold["value"], threshold["cards_per_day"]
    log("optimise: done", model=model.id, served=decided["served_file"], threshold=value, cards_per_day=cards)
