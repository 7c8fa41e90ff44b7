"""Judge a model on its test window: model and training set in, an evaluation with figures, report and verdict out.

What is measured, demanded and told is `classes`' or `quantity`'s, by the task of the workload; the workload brings
limits, slices, bad days and words. Blocking is `components/gate`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from components.evaluate.classes.examine import examine as examine_classes
from components.evaluate.config import Limits, load_limits
from components.evaluate.examination import Case, Examination
from components.evaluate.quantity.examine import examine as examine_quantity
from millrace.errors import NotFound
from millrace.installed import Workload, load
from millrace.lake.manifest import Manifest, content_id
from millrace.lake.provenance import code_of
from millrace.lake.step import Step
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
    accept: Mapping[str, str] | None = None,
    review_capacity: int = 100,
    threads: int = 2,
) -> Manifest:
    """The evaluation of `model`, whose verdict may be a failure; from the lake where it exists already.

    `accept` has names of rules whose failure is accepted, and why.
    Raises InvalidInput when the test window has no rows to judge, ArtifactCorrupt or SchemaMismatch for a model that
    cannot be run.
    """
    workload = load(training_set.workload)
    limits = limits or load_limits(workload)
    champion = None if champion is None or champion.id == model.id else champion
    accepted = dict(accept or {})
    identity = _identity(workload, model, training_set, champion, limits, accepted, review_capacity)
    parents = {"model": model.id, "training_set": training_set.id}
    step = Step(kind="evaluation", id=identity, workload=workload.name, lake=lake.resolve(), parents=parents)
    done = step.found()
    if done is not None:
        log("evaluate: already done", evaluation=step.id)
        return done

    training_set.verify()
    case = Case(
        artifact=ModelArtifact.open(model.fetch(), threads=threads),
        training_set=training_set,
        champion=champion,
        lake=lake,
        limits=limits,
        accept=accepted,
        review_capacity=review_capacity,
        threads=threads,
    )
    found = EXAMINERS[workload.task](case)
    log("evaluate", model=model.id, passed=found.verdict.passed, failed=[rule.name for rule in found.verdict.failures])
    return _write(step, case, found)


def find_model(settings: Settings, identity: str) -> Manifest | None:
    """The model `identity`, absent for an empty one; where the lake lost it, the registry's copy if that is served.

    Raises NotFound when it is in neither place.
    """
    if not identity:
        return None
    found = Manifest.find(settings.lake, "model", identity)
    if found is not None:
        return found

    champion = served(settings)
    if champion is None or champion.artifact_id != identity:
        folder = settings.lake / "models"
        raise NotFound(f"no model {identity} in {folder}, and it is not what is served. Name another champion.")
    registered = Registry(settings).folder(champion.version)
    return Manifest.lying_in(registered, "model")


def _identity(
    workload: Workload,
    model: Manifest,
    training_set: Manifest,
    champion: Manifest | None,
    limits: Limits,
    accept: Mapping[str, str],
    k: int,
) -> str:
    return content_id(
        {
            "model": model.id,
            "training_set": training_set.id,
            "champion": champion and champion.id,
            "limits": limits.model_dump(),
            "accept": accept,
            "review_capacity": k,
            "cascade": settings().cascade,
            "code": code_of(Path(__file__).parent, *workload.files("judging")),
        }
    )


def _write(step: Step, case: Case, found: Examination) -> Manifest:
    start = case.training_set.facts["test_start"]
    with step.writing() as draft:
        found.verdict.write(draft.folder / "verdict.json")
        document = {
            "model": case.artifact.id,
            "test_start": start,
            **found.document,
            "limits": case.limits.model_dump(),
            **found.verdict.to_dict(),
        }
        (draft.folder / "report.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        pq.write_table(found.scores, draft.folder / "scores.parquet")
        (draft.folder / "model_card.md").write_text(found.model_card, encoding="utf-8")
        found.write_page(draft.folder / "report.html")
        draft.facts |= {
            "passed": found.verdict.passed,
            "metrics": found.metrics,
            "test_start": start,
            "champion": case.champion and case.champion.id,
            **found.facts,
        }
    return step.made()
