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
from components.evaluate.examination import GATE, Case, Examination
from components.evaluate.window import TestWindow, ask_champion, model_scores, open_ranked, scores_table
from millrace.judge.gates import Verdict
from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats

ROC_POINTS: Final = 200


def examine(case: Case) -> Examination:
    """Raises InvalidInput when the test window has no rows to judge."""
    limits = class_limits(case.limits)
    window = open_ranked(case.training_set, case.lake)
    workload = window.data.workload
    scores = model_scores(case.artifact, window.data, window.rows)
    own = scores[window.counts]
    baselines = fit_baselines(window.data, window.rows, limits, case.threads)
    rival = ask_champion(case.champion, window, case.threads)

    masks = workload.judging.slices(window.judged_table, window.data.features[window.judged_rows])
    evidence = gather(window, own, case.artifact, baselines, rival, masks, limits, case.review_capacity)
    words = Words.of(workload, evidence.review_capacity)
    verdict = Verdict(GATE, judge(evidence, limits, words)).accepting(case.accept)

    curves = {"model": own} | {name: one.answers.point[window.counts] for name, one in baselines.items()}
    if rival is not None and rival.answers is not None:
        curves["champion"] = rival.answers.point
    return Examination(
        verdict=verdict,
        document=evidence.to_dict() | {"roc": _roc(window.judged, own)},
        metrics=evidence.metrics(),
        facts=_facts(evidence),
        scores=scores_table(window, {"score": scores}),
        model_card=model_card(evidence, verdict, limits, window.data, words),
        write_page=partial(_write_page, case, window, evidence, verdict, words, curves),
    )


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
    words: Words,
    curves: Mapping[str, Floats],
    path: Path,
) -> None:
    from components.evaluate import page  # matplotlib: not for those who only want the figures
    from components.evaluate.classes.page import show

    shown = show(evidence, words, window.judged, curves)
    page.write(path, case.artifact.manifest, f"week from {window.start}", words, verdict, evidence, shown)
