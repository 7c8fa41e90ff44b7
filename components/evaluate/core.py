"""Judge a model on its test window: model and training set in, an evaluation with figures, report and verdict out.

What is measured, demanded and told is `classes`' or `quantity`'s, by the task of the workload; the workload brings
limits, slices, bad days and words. Blocking is `components/gate`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from components.evaluate.classes.examine import examine as examine_classes
from components.evaluate.config import Limits, load_limits
from components.evaluate.examination import Case, Examination
from components.evaluate.quantity.examine import examine as examine_quantity
from millrace.errors import NotFound
from millrace.installed import Workload, load
from millrace.lake.atomic import replacing_folder
from millrace.lake.manifest import MANIFEST, Manifest, content_id, hash_files
from millrace.lake.provenance import code_of
from millrace.observe.progress import log
from millrace.registry.model_artifact import ModelArtifact
from millrace.registry.models import Registry, served
from millrace.settings import Settings, settings
from millrace.workload import Task

EXAMINERS: Final[Mapping[Task, Callable[[Case], Examination]]] = {
    Task.RANKING: examine_classes,
    Task.CLASSIFICATION: examine_classes,
    Task.REGRESSION: examine_quantity,
}


def evaluate(
    model: Manifest,
    training_set: Manifest,
    champion: Manifest | None,
    lake: Path,
    limits: Limits | None = None,
    *,
    review_capacity: int = 100,
    threads: int = 2,
) -> Manifest:
    """The evaluation of `model`, whose verdict may be a failure; from the lake where it exists already.

    Raises InvalidInput when the test window has no rows to judge, ArtifactCorrupt or SchemaMismatch for a model that
    cannot be run.
    """
    workload = load(training_set.workload)
    limits = limits or load_limits(workload)
    champion = None if champion is None or champion.id == model.id else champion
    identity = _identity(workload, model, training_set, champion, limits, review_capacity)
    folder = lake.resolve() / "evaluations" / identity
    if (done := Manifest.find(folder, "evaluation")) is not None:
        log("evaluate: already done", evaluation=folder.name)
        return done

    training_set.verify()
    case = Case(
        artifact=ModelArtifact.open(model.folder, threads=threads),
        training_set=training_set,
        champion=champion,
        lake=lake,
        limits=limits,
        review_capacity=review_capacity,
        threads=threads,
    )
    found = EXAMINERS[workload.task](case)
    log("evaluate", model=model.id, passed=found.verdict.passed, failed=[rule.name for rule in found.verdict.failures])
    return _write(folder, case, found)


def find_model(settings: Settings, identity: str) -> Manifest | None:
    """The model `identity`, absent for an empty one; where the lake lost it, the registry's copy if that is served.

    Raises NotFound when it is in neither place.
    """
    folder = settings.lake / "models" / identity
    if not identity or (found := Manifest.find(folder, "model")) is not None:
        return found if identity else None
    champion = served(settings)
    if champion is None or champion.artifact_id != identity:
        raise NotFound(f"no model {identity} in {folder.parent}, and it is not what is served. Name another champion.")
    registered = Registry(settings).folder(champion.version)
    return Manifest.lying_in(registered, "model")


def _identity(
    workload: Workload, model: Manifest, training_set: Manifest, champion: Manifest | None, limits: Limits, k: int
) -> str:
    return content_id(
        {
            "model": model.id,
            "training_set": training_set.id,
            "champion": champion and champion.id,
            "limits": limits.model_dump(),
            "review_capacity": k,
            "cascade": settings().cascade,
            "code": code_of(Path(__file__).parent, *workload.files("judging")),
        }
    )


def _write(folder: Path, case: Case, found: Examination) -> Manifest:
    start = case.training_set.facts["test_start"]
    with replacing_folder(folder) as aside:
        found.verdict.write(aside / "verdict.json")
        document = {
            "model": case.artifact.id,
            "test_start": start,
            **found.document,
            "limits": case.limits.model_dump(),
            **found.verdict.to_dict(),
        }
        (aside / "report.json").write_text(json.dumps(document, indent=2) + "\n")
        pq.write_table(found.scores, aside / "scores.parquet")
        (aside / "model_card.md").write_text(found.model_card)
        found.write_page(aside / "report.html")
        facts: dict[str, Any] = {
            "passed": found.verdict.passed,
            "metrics": found.metrics,
            "test_start": start,
            "champion": case.champion and case.champion.id,
            **found.facts,
        }
        Manifest(
            kind="evaluation",
            id=folder.name,
            workload=case.training_set.workload,
            uri=str(folder),
            parents={"model": case.artifact.id, "training_set": case.training_set.id},
            files=hash_files(aside),
            facts=facts,
        ).write(aside / MANIFEST)
    return Manifest.read(folder, "evaluation")
