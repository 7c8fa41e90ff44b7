"""A model of classes, examined: its case in, figures, verdict and texts out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from components.evaluate.classes.baselines import fit_baselines
from components.evaluate.classes.curves import curve
from components.evaluate.classes.evidence import Evidence, gather
from components.evaluate.classes.model_card import model_card
from components.evaluate.classes.rules import judge
from components.evaluate.classes.words import Words
from components.evaluate.config import class_limits
from components.evaluate.examination import GATE, Case, Examination, metrics_of
from components.evaluate.window import TestWindow, model_scores, open_ranked, scores_table
from millrace.errors import InvalidInput, MillraceError
from millrace.judge.gates import Verdict
from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats
from millrace.lake.manifest import Manifest
from millrace.registry.model_artifact import ModelArtifact

ROC_POINTS: Final = 200


def examine(case: Case) -> Examination:
    """Raises InvalidInput when the test window has no rows to judge."""
    window = open_ranked(case.training_set, case.lake)
    if not len(window.judged):
        raise InvalidInput(f"{case.training_set.id} has no labelled test rows to judge. Assemble a later week.")
    limits, workload = class_limits(case.limits), window.data.workload
    scores = model_scores(case.artifact, window.data, window.rows)
    own = scores[window.counts]
    baselines = fit_baselines(window.data, window.rows, limits, case.threads)
    rival = None if case.champion is None else (case.champion.id, champion_scores(case.champion, window, case.threads))

    masks = workload.judging.slices(window.judged_table, window.data.features[window.judged_rows])
    evidence = gather(window, own, case.artifact, baselines, rival, masks, limits, case.review_capacity)
    verdict = Verdict(GATE, judge(evidence, limits, Words.of(workload, evidence.review_capacity)))

    curves = {"model": own} | {name: b.scores[window.counts] for name, b in baselines.items()}
    if rival is not None and not isinstance(rival[1], str):
        curves["champion"] = rival[1]
    facts = window.data.manifest.facts
    return Examination(
        verdict=verdict,
        document=evidence.to_dict() | {"roc": _roc(window.judged, own)},
        metrics=metrics_of(evidence.figures, evidence.latency),
        facts=_facts(evidence),
        scores=scores_table(window, {"score": scores}),
        model_card=model_card(evidence, verdict, limits, workload, facts["splits"], facts.get("feature_service", "")),
        write_page=partial(_write_page, case, window, evidence, verdict, curves),
    )


def champion_scores(champion: Manifest, window: TestWindow[Judged], threads: int) -> Floats | str:
    """[J] the champion's scores on the judged rows, or why it cannot score them."""
    try:
        return model_scores(ModelArtifact.open(champion.folder, threads=threads), window.data, window.judged_rows)
    except MillraceError as error:
        # The champion may be older than today's features. The rule that compares then fails, and says this.
        return str(error)


def _roc(rows: Judged, scores: Floats) -> dict[str, list[float]]:
    points = curve(rows, scores).thinned(ROC_POINTS)
    return {
        "threshold": points.threshold.tolist(),
        "true_positive_rate": points.caught.tolist(),
        "false_positive_rate": points.false_alarms.tolist(),
    }


def _facts(evidence: Evidence) -> dict[str, Any]:
    if evidence.at_threshold is None:
        return {}
    return {"decision_threshold": evidence.at_threshold.threshold, "review_capacity": evidence.review_capacity}


def _write_page(
    case: Case,
    window: TestWindow[Judged],
    evidence: Evidence,
    verdict: Verdict,
    curves: Mapping[str, Floats],
    path: Path,
) -> None:
    from components.evaluate.classes import page  # matplotlib: not for those who only want the figures
    from components.evaluate.training_curve import read_curve

    model = case.artifact.manifest
    title = f"Model {model.id} on the week from {window.start}"
    words = Words.of(window.data.workload, evidence.review_capacity)
    page.write(path, title, words, verdict, evidence, window.judged, curves, read_curve(model))
