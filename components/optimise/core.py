"""Make a trained model servable: trained folder and training set in, folder with graphs out.

Network and trees become graphs, checked and measured: of a ranking in `ranked.py`, with a decision threshold, students
and a cascade; of any other task in `plain.py`. The reference window is left for drift. Everything is judged on the
validation rows; test rows are not touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.optimise.config import OptimiseConfig
from components.optimise.decided import Decided
from components.optimise.plain import make_plain
from components.optimise.ranked import make_ranked
from components.optimise.rows import validation_rows
from millrace.installed import load
from millrace.lake.manifest import Manifest, content_id
from millrace.lake.provenance import code_of, code_version
from millrace.lake.step import Step
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import log
from millrace.registry.model_spec import MODEL_JSON, ModelSpec
from millrace.tabular.network import Network
from millrace.tabular.rows import Floats
from millrace.tabular.weights import load_network
from millrace.workload import Task

REFERENCE: Final = "reference_window.parquet"
FACTS: Final = ("served_file", "decision_threshold")
"""What the manifest repeats of `model.json`, where the task has it."""


def optimise(model: Manifest, training_set: Manifest, lake: Path, config: OptimiseConfig) -> Manifest:
    """The servable model of a trained one, from the lake where it exists already.

    Raises GateBlocked when the graph does not reproduce torch, InvalidInput when there are no validation rows.
    """
    workload = load(model.workload)
    config = replace(config, boosting=config.boosting or workload.model.TREES)
    code = code_of(Path(__file__).parent, *workload.files("model", "features", "batch", "judging"))
    inputs = {"model": model.id, "training_set": training_set.id, "config": asdict(config), "code": code}
    parents = model.as_parents() | {"training_set": training_set.id}
    step = Step(kind="model", id=content_id(inputs), workload=workload.name, lake=lake.resolve(), parents=parents)
    done = step.found()
    if done is not None:
        log("optimise: already done", model=step.id)
        return done

    model.verify()
    training_set.verify()
    spec = ModelSpec.read(model.fetch())
    spec.require_contract()
    data = TrainingSet(training_set)
    with step.writing() as draft:
        for name in model.files:
            shutil.copyfile(model.path(name), draft.folder / name)
        decided = _make(load_network(model.fetch()), data, draft.folder, config)
        draft.facts |= model.facts | {"name": spec.name, "code_version": code_version()}
        draft.facts |= {name: decided[name] for name in FACTS if name in decided}
    _report(step.id, decided)
    return step.made()


def _make(network: Network, data: TrainingSet, folder: Path, config: OptimiseConfig) -> dict[str, Any]:
    """Fill `folder`; what `model.json` gained."""
    rows = validation_rows(data, network.sequence_length)
    make: Callable[..., Decided] = make_ranked if data.workload.task is Task.RANKING else make_plain
    decided = make(network, data, rows, folder, config)
    _write_reference(folder, network.feature_names, rows.inputs[0], decided.scores, config)
    path = folder / MODEL_JSON
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | decided.document, indent=2, sort_keys=True) + "\n",
        encoding="utf-8",
    )
    return decided.document


def _write_reference(
    folder: Path, names: Sequence[str], features: Floats, scores: Floats, config: OptimiseConfig
) -> None:
    count = len(scores)
    rng = np.random.default_rng(config.seed)
    sample = np.sort(rng.choice(count, min(config.reference_rows, count), replace=False))
    columns = {name: features[sample, index] for index, name in enumerate(names)}
    pq.write_table(pa.table(columns | {"score": scores[sample]}), folder / REFERENCE, compression="zstd")


def _report(model: str, decided: dict[str, Any]) -> None:
    measured = decided["optimisation"]
    for variant in measured["variants"]:
        times = {f"us_{batch}": time for batch, time in variant["latency_us"].items()}
        figures = {name: variant[name] for name in ("average_precision", "mean_absolute_error") if name in variant}
        log("optimise: graph", file=variant["file"], **figures, **times)
    for tried in measured.get("cascade", {}).get("tried", [])[-1:]:
        log("optimise: cascade", why_not=measured["cascade"]["why_not"], **tried)

    threshold = measured.get("threshold")
    if threshold and threshold["scaled_down"]:
        log("optimise: few units a day; the threshold reviews a share of them", capacity=threshold["review_capacity"])
    told = {"threshold": threshold["value"], "units_per_day": threshold["units_per_day"]} if threshold else {}
    log("optimise: done", model=model, served=decided["served_file"], **told, **measured.get("interval", {}))
