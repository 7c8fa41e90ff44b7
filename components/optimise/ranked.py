"""The graphs of a ranking: network and trees, students, a cascade, and the threshold from which a unit is reviewed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from components.optimise import measure
from components.optimise.boosted import choose_trees
from components.optimise.cascade import CASCADE, Band, choose_band
from components.optimise.config import OptimiseConfig
from components.optimise.decided import Decided
from components.optimise.graphs import FLOAT, INT8, Scores, choose, first_rows, make_graphs, measure_graphs, scorer_of
from components.optimise.rows import ValidationRows, calibration_rows
from components.optimise.student import (
    STUDENT,
    StudentConfig,
    distil,
    lessons,
    node_count,
    write_cheap,
    write_student,
)
from millrace.lake.training_set import TrainingSet
from millrace.tabular.network import Network


def make_ranked(
    network: Network,
    data: TrainingSet,
    rows: ValidationRows,
    folder: Path,
    config: OptimiseConfig,
) -> Decided:
    """Write every graph to `folder`, but for those that nothing serves; raises GateBlocked."""
    trees, tried = choose_trees(network, data, rows, config.boosting or data.workload.model.TREES)
    calibration = calibration_rows(data, network.sequence_length, config.calibration_rows)
    parity = make_graphs(network, rows, calibration, folder, config, trees)
    nodes = _make_students(network, data, rows, folder, config.student)
    variants, scores = measure_graphs(folder, (FLOAT, INT8, *nodes), rows, config)
    served = choose({name: variants[name] for name in variants if name != CASCADE}, config).file

    limits = (config.review_capacity, config.max_review_share)
    threshold = measure.review_threshold(rows.ranked, scores[served], *limits)
    band, final = _with_cascade(rows, scores, served, threshold.value, config)

    documents = {name: variant.to_dict() for name, variant in variants.items()}
    for name, count in nodes.items():
        own = measure.review_threshold(rows.ranked, scores[name], *limits)
        documents[name] |= {"parameters": count, "decision_threshold": own.value}

    if STUDENT in nodes:
        alone = choose_band(rows.ranked, scores[STUDENT], scores[served], threshold.value, config.cascade).cascade
        documents[STUDENT]["certain_below"] = alone and alone.lower

    document: dict[str, Any] = {
        "served_file": served,
        "decision_threshold": threshold.value,
        "optimisation": {
            "variants": list(documents.values()),
            "parity": parity.to_dict(),
            "threshold": threshold.to_dict(),
            "calibration": measure.calibration(rows.ranked, final),
            "boosting": tried,
            "cascade": band.to_dict(),
        },
    }

    if band.cascade is not None:
        document["cascade"] = asdict(band.cascade)
    _drop_unserved(folder, document)
    return Decided(document, final)


def _make_students(
    network: Network, data: TrainingSet, rows: ValidationRows, folder: Path, config: StudentConfig
) -> dict[str, int]:
    """Teach two students by the float graph and write them: file → nodes of its trees."""
    if config.full.rounds < 1:
        return {}

    features = len(network.feature_names)
    learned = lessons(network, data, scorer_of(folder / FLOAT), config)
    student = distil(learned, config.full)
    cheap = distil(learned, config.cheap, features)

    write_student(network, student, first_rows(rows), folder / STUDENT)
    write_cheap(cheap, features, folder / CASCADE)
    return {STUDENT: node_count(student), CASCADE: node_count(cheap)}


def _with_cascade(
    rows: ValidationRows, scores: Mapping[str, Scores], served: str, threshold: float, config: OptimiseConfig
) -> tuple[Band, Scores]:
    """The band, and scores[V] as they will be served: the rule is the one that `ModelArtifact` applies."""
    full = scores[served]
    if CASCADE not in scores:
        return Band(None, []), full

    cheap = scores[CASCADE]
    band = choose_band(rows.ranked, cheap, full, threshold, config.cascade)
    if band.cascade is None or not config.cascade.in_use:
        return band, full
    return band, np.where(band.cascade.is_sure(cheap), cheap, full)


def _drop_unserved(folder: Path, document: Mapping[str, Any]) -> None:
    """Keep the int8 and the cheap graph only where they serve."""
    if document["served_file"] != INT8:
        (folder / INT8).unlink()
    if "cascade" not in document:
        (folder / CASCADE).unlink(missing_ok=True)
