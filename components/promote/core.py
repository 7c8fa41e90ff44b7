"""Let a judged model in: model and verdicts in, a version of its own with a rendered InferenceService out.

Refuses unless every verdict passed and is about this very model. Which alias a version gets, and the audit record,
are the business of `millrace.registry.models`; the documents are made in `render.py`. Every step may be repeated: a
promotion that was killed is finished by running it again.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.promote.render import inference_service, model_card
from millrace.errors import ConfigError, GateBlocked
from millrace.installed import load
from millrace.judge.gates import Rule, Verdict, require_all
from millrace.lake.atomic import replacing_folder, sha256_text, write_text
from millrace.lake.feast_home import fill_of, repository
from millrace.lake.manifest import MANIFEST, Manifest, content_id, hash_files
from millrace.lake.step import Step
from millrace.observe.progress import log
from millrace.registry.model_artifact import ModelArtifact
from millrace.registry.model_spec import GENERATION, generation_of
from millrace.registry.models import CHALLENGER, Registry
from millrace.registry.version_store import ModelVersion
from millrace.rollout import service
from millrace.settings import Settings

MODEL_CARD: Final = "model_card.md"
INFERENCE_SERVICE: Final = "inference_service.yaml"

ABOUT: Final = {"evaluation": "model", "skew_check": "feature_set", "validation": "snapshot"}
"""Kind of judgement → the ancestor that it must share with the model; for an evaluation, the model itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromoteConfig:
    """What to render, and what the audit record should say besides."""

    base_manifest: Path | None = None
    """The InferenceService to point at the version; absent: the one made for the workload."""
    run_id: str = ""
    """Id of the pipeline run that asks."""
    reason: str = ""
    canary_percent: int = 0
    """Traffic that a challenger gets at once; 0: what the setting of that name says."""


def promote(
    model: Manifest,
    evaluation: Manifest,
    skew_check: Manifest,
    settings: Settings,
    config: PromoteConfig | None = None,
    *,
    validation: Manifest,
) -> Manifest:
    """The promotion of a model: the first becomes champion, a later one challenger; again, it gives the same version.

    Raises GateBlocked when a verdict failed or is about another model (the refusal is recorded), ArtifactCorrupt when
    a file of the model or of a judgement is not what its manifest says.
    """
    config = config or PromoteConfig()
    judgements = [evaluation, skew_check, validation]
    base = _base(config.base_manifest, model.workload)
    inputs = {"model": model.id, "judgements": [item.id for item in judgements], "name": settings.model_name}
    identity = content_id(inputs | {"base": sha256_text(base), "store": settings.model_store_uri})
    parents = model.as_parents() | {item.kind: item.id for item in judgements}
    lake = settings.lake.resolve()
    step = Step(kind="promotion", id=identity, workload=model.workload, lake=lake, parents=parents)
    registry = Registry(settings)
    done = step.found()
    if done is not None and _in_place(done, registry):
        log("promote: already done", promotion=identity)
        return done

    verdicts = judge(model, judgements, registry, config)
    ModelArtifact.open(model.fetch())  # what cannot be loaded must not get a version
    version = registry.register(model.id, _tags(model, judgements), model.facts.get("mlflow_run_id"))
    text = model_card(model, evaluation, verdicts, version.version)
    generation = str(skew_check.facts[GENERATION])
    copy_version(model, text, registry.folder(version.version), generation)
    give_state(registry.folder(version.version), registry.home, model.workload, generation)
    rendered = inference_service(base, version.version, registry.uri(version.version))
    write_text(registry.rendered_path(version.version), rendered)
    passed = {verdict.gate: verdict.passed for verdict in verdicts}
    snapshot = model.parents.get("snapshot", "")
    accepted = {rule.name: rule.accepted for verdict in verdicts for rule in verdict.accepted}
    about = {"run": config.run_id, "reason": config.reason, "snapshot": snapshot, "verdicts": passed}
    if accepted:
        about["accepted"] = accepted
    version = registry.admit(version.version, **about)
    percent = config.canary_percent or settings.canary_percent
    if percent and CHALLENGER in version.aliases:
        registry.start_canary(version.version, percent)
    log("promote: done", model=model.id, version=version.version, aliases=",".join(version.aliases) or "none")
    return _write(step, version, {INFERENCE_SERVICE: rendered, MODEL_CARD: text}, passed)


def judge(
    model: Manifest, judgements: list[Manifest], registry: Registry, config: PromoteConfig
) -> tuple[Verdict, ...]:
    """Every verdict, if all passed and are about this model; else GateBlocked, after recording the refusal."""
    for judgement in judgements:
        judgement.verify()
    verdicts = (
        Verdict("promote", tuple(belongs(model, item) for item in judgements)),
        *(Verdict.read(item.path("verdict.json")) for item in judgements),
    )
    try:
        require_all(verdicts)
    except GateBlocked as error:
        about = {"snapshot": model.parents.get("snapshot", ""), "run": config.run_id}
        results = {verdict.gate: verdict.passed for verdict in verdicts}
        registry.refuse(model.id, verdicts=results, reason=str(error), **about)
        raise
    return verdicts


def belongs(model: Manifest, judgement: Manifest) -> Rule:
    """Whether the judgement is about this model: a verdict on other rows or other weights says nothing."""
    ancestor = ABOUT[judgement.kind]
    wanted = model.id if ancestor == "model" else model.parents.get(ancestor)
    got = judgement.parents.get(ancestor)
    detail = f"{judgement.kind} {judgement.id} is about {ancestor} {got}; this model's is {wanted}"
    return Rule(
        f"{judgement.kind}_is_about_this_{ancestor}", float(got is not None and got == wanted), "==", 1.0, detail
    )


def copy_version(model: Manifest, text: str, folder: Path, generation: str) -> None:
    """Copy the model and its model card to the version's folder, read-only, with the generation that it reads.

    A copy that is there must be whole.
    """
    facts = model.facts | {GENERATION: generation}
    with replacing_folder(folder) as aside:
        for name in model.files:
            shutil.copyfile(model.path(name), aside / name)
        (aside / MODEL_CARD).write_text(text, encoding="utf-8")
        files = hash_files(aside)
        dataclasses.replace(model, uri=str(folder), files=files, facts=facts).write(aside / MANIFEST)
        for path in aside.iterdir():
            path.chmod(0o444)
    Manifest.lying_in(folder, "model").verify()


def give_state(folder: Path, home: Path, workload: str, generation: str) -> None:
    """Let a version read this generation, unless that which it reads already is there."""
    held = Manifest.lying_in(folder, "model")
    known = generation_of(held)
    if known != generation and (not known or fill_of(repository(home, workload, known)) is None):
        dataclasses.replace(held, facts=held.facts | {GENERATION: generation}).write(folder / MANIFEST)
        log("promote: reads another generation", model=held.id, generation=generation, before=known or "none")


def _in_place(done: Manifest, registry: Registry) -> bool:
    """Whether the version of a finished promotion is there, and the state that it reads; does not load MLflow."""
    if not registry.served_path.is_file():
        return False
    version = done.facts["model_version"]
    folder = registry.folder(version)
    if not (registry.settled and registry.was_admitted(version) and folder.is_dir()):
        return False
    repo = repository(registry.home, done.workload, generation_of(Manifest.lying_in(folder, "model")))
    return fill_of(repo) is not None


def _base(path: Path | None, workload: str) -> str:
    if path is None:
        return service.inference_service(load(workload))
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"no InferenceService at {path}. Name one that is there, or none.") from error


def _tags(model: Manifest, judgements: list[Manifest]) -> dict[str, str]:
    tags = {kind: identity for kind, identity in model.parents.items() if kind != "model"}
    tags |= {"trained_model": model.parents.get("model", ""), "verdict": "passed"}
    return tags | {item.kind: item.id for item in judgements}


def _write(step: Step, version: ModelVersion, documents: dict[str, str], passed: dict[str, bool]) -> Manifest:
    with step.writing() as draft:
        for name, text in documents.items():
            (draft.folder / name).write_text(text, encoding="utf-8")
        draft.facts |= {
            "model_name": version.name,
            "model_version": version.version,
            "model_uri": version.source,
            "alias": version.aliases[0] if version.aliases else "",
            "verdicts": passed,
        }
    return step.made()
