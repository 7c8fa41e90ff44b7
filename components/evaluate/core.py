"""Judge a model on its test week: model and training set in, an evaluation with figures, report and verdict out.

`test_week.py` says which rows count, `evidence.py` measures, `rules.py` holds figures against `evaluate.yaml`,
`page.py` and `card.py` write for people. Blocking is `components/gate`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.evaluate.baselines import fit_baselines
from components.evaluate.card import model_card
from components.evaluate.config import EvaluateConfig
from components.evaluate.curves import curve
from components.evaluate.evidence import Evidence, gather
from components.evaluate.rules import judge
from components.evaluate.test_week import TestWeek, model_scores, open_test_week
from fraud.slices import slice_masks
from millrace.errors import InvalidInput, MillraceError, NotFound
from millrace.judge.gates import Verdict
from millrace.judge.rows import Floats
from millrace.lake.atomic import replacing_folder
from millrace.lake.manifest import MANIFEST, Manifest, content_id, hash_files
from millrace.lake.provenance import code_of
from millrace.observe.progress import log
from millrace.registry.model_artifact import ModelArtifact
from millrace.registry.models import Registry, served
from millrace.settings import Settings, settings

GATE: Final = "evaluation"
ROC_POINTS: Final = 200
TRAINING_CURVE: Final = "training_curve.json"


def evaluate(
    model: Manifest,
    training_set: Manifest,
    champion: Manifest | None,
    lake: Path,
    config: EvaluateConfig | None = None,
    *,
    review_capacity: int = 100,
    threads: int = 2,
) -> Manifest:
    """The evaluation of `model`, whose verdict may be a failure; from the lake where it exists already.

    Raises InvalidInput when the test week has no rows to judge, ArtifactCorrupt or SchemaMismatch for a model that
    cannot be run.
    """
    config = config or EvaluateConfig.load()
    champion = None if champion is None or champion.id == model.id else champion
    folder = lake.resolve() / "evaluations" / _identity(model, training_set, champion, config, review_capacity)
    if (done := Manifest.find(folder, "evaluation")) is not None:
        log("evaluate: already done", evaluation=folder.name)
        return done
    training_set.verify()
    artifact = ModelArtifact.open(model.folder, threads=threads)
    week = open_test_week(training_set, lake)
    if not len(week.judged):
        raise InvalidInput(f"training set {training_set.id} has no labelled test rows to judge. Assemble a later week.")
    scores = model_scores(artifact, week.data, week.rows)
    baselines = fit_baselines(week.data, week.rows, config, threads)
    rival = None if champion is None else (champion.id, champion_scores(champion, week, threads))
    masks = slice_masks(week.table.filter(pa.array(week.counts)), week.data.features[week.judged_rows])
    evidence = gather(week, scores[week.counts], artifact, baselines, rival, masks, config, review_capacity)
    verdict = Verdict(GATE, judge(evidence, config))
    log("evaluate", model=model.id, passed=verdict.passed, failed=[rule.name for rule in verdict.failures])
    curves = {"model": scores[week.counts]} | {name: b.scores[week.counts] for name, b in baselines.items()}
    if rival is not None and not isinstance(rival[1], str):
        curves["champion"] = rival[1]
    with replacing_folder(folder) as aside:
        _write_files(aside, model, week, scores, curves, evidence, verdict, config)
        Manifest(
            kind="evaluation",
            id=folder.name,
            workload=model.workload,
            uri=str(folder),
            parents={"model": model.id, "training_set": training_set.id},
            files=hash_files(aside),
            facts=_facts(evidence, verdict, champion, week),
        ).write(aside / MANIFEST)
    return Manifest.read(folder, "evaluation")


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
    return replace(Manifest.read(registered, "model"), uri=str(registered))


def champion_scores(champion: Manifest, week: TestWeek, threads: int) -> Floats | str:
    """[J] the champion's scores on the judged rows, or why it cannot score them."""
    try:
        return model_scores(ModelArtifact.open(champion.folder, threads=threads), week.data, week.judged_rows)
    except MillraceError as error:
        # The champion may be older than today's features. The rule that compares then fails, and says this.
        return str(error)


def _identity(
    model: Manifest, training_set: Manifest, champion: Manifest | None, config: EvaluateConfig, k: int
) -> str:
    return content_id(
        {
            "model": model.id,
            "training_set": training_set.id,
            "champion": champion and champion.id,
            "config": config.model_dump(),
            "review_capacity": k,
            "cascade": settings().cascade,
            "code": code_of(Path(__file__).parent),
        }
    )


def _facts(evidence: Evidence, verdict: Verdict, champion: Manifest | None, week: TestWeek) -> dict[str, Any]:
    figures = {name: figure.value for name, figure in evidence.figures.items()}
    ends = {f"{name}_{end}": getattr(f, end) for name, f in evidence.figures.items() for end in ("low", "high")}
    latency = {"latency_p50_ms": evidence.latency.p50_ms, "latency_p99_ms": evidence.latency.p99_ms}
    return {
        "passed": verdict.passed,
        "metrics": {name: round(value, 6) for name, value in (figures | ends | latency).items()},
        "test_start": str(week.start),
        "champion": champion and champion.id,
        "decision_threshold": evidence.at_threshold.threshold,
        "review_capacity": evidence.review_capacity,
    }


def _write_files(
    aside: Path,
    model: Manifest,
    week: TestWeek,
    scores: Floats,
    curves: Mapping[str, Floats],
    evidence: Evidence,
    verdict: Verdict,
    config: EvaluateConfig,
) -> None:
    """Everything but the manifest; `scores[T]` of all test rows, `curves` name → [J] of the judged ones."""
    from components.evaluate import page  # matplotlib: not for those who only want the figures

    verdict.write(aside / "verdict.json")
    roc = curve(week.judged, curves["model"]).thinned(ROC_POINTS)
    document = {
        "model": model.id,
        "test_start": str(week.start),
        **evidence.to_dict(),
        "roc": {
            "threshold": roc.threshold.tolist(),
            "true_positive_rate": roc.caught.tolist(),
            "false_positive_rate": roc.false_alarms.tolist(),
        },
        "config": config.model_dump(),
        **verdict.to_dict(),
    }
    (aside / "report.json").write_text(json.dumps(document, indent=2) + "\n")
    table = pa.table({"transaction_id": week.table["transaction_id"], "score": scores.astype("float32")})
    pq.write_table(table, aside / "scores.parquet")
    facts = week.data.manifest.facts
    card = model_card(evidence, verdict, config, facts["splits"], facts.get("feature_service", ""))
    (aside / "model_card.md").write_text(card)
    history = json.loads(model.path(TRAINING_CURVE).read_text()) if TRAINING_CURVE in model.files else []
    title = f"Model {model.id} on the week from {week.start}"
    page.write(aside / "report.html", title, verdict, evidence, week.judged, curves, history)
