"""A model of a quantity, examined: its case in, figures, verdict and texts out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from components.evaluate.config import quantity_limits
from components.evaluate.examination import GATE, Case, Examination
from components.evaluate.quantity.baselines import fit_baselines
from components.evaluate.quantity.evidence import Evidence, gather
from components.evaluate.quantity.model_card import model_card
from components.evaluate.quantity.rules import judge
from components.evaluate.quantity.words import Words
from components.evaluate.window import TestWindow, ask_champion, model_predictions, open_measured, scores_table
from millrace.judge.gates import Verdict
from millrace.judge.regression import Measured, Predictions


def examine(case: Case) -> Examination:
    """Raises InvalidInput when the test window has no rows to judge."""
    limits = quantity_limits(case.limits)
    window = open_measured(case.training_set)
    workload = window.data.workload
    answers = model_predictions(case.artifact, window.data, window.rows)
    own = answers.where(window.counts)
    baselines = fit_baselines(window.data, window.rows, limits, case.threads)
    rival = ask_champion(case.champion, window, case.threads)

    masks = workload.judging.slices(window.judged_table, window.data.features[window.judged_rows])
    evidence = gather(window, own, case.artifact, baselines, rival, masks, limits)
    words = Words.of(workload)
    verdict = Verdict(GATE, judge(evidence, limits)).accepting(case.accept)

    ends = {"low": answers.low, "high": answers.high} if answers.bounded else {}
    others = {name: baseline.answers.where(window.counts) for name, baseline in baselines.items()}
    return Examination(
        verdict=verdict,
        document=evidence.to_dict(),
        metrics=evidence.metrics(),
        facts={},
        scores=scores_table(window, {"score": answers.point, **ends}),
        model_card=model_card(evidence, verdict, limits, window.data, words),
        write_page=partial(_write_page, case, window, evidence, verdict, words, own, others),
    )


def _write_page(
    case: Case,
    window: TestWindow[Measured],
    evidence: Evidence,
    verdict: Verdict,
    words: Words,
    own: Predictions,
    others: Mapping[str, Predictions],
    path: Path,
) -> None:
    from components.evaluate import page  # matplotlib: not for those who only want the figures
    from components.evaluate.quantity.page import show

    shown = show(evidence, words, window.judged, own, others)
    page.write(path, case.artifact.manifest, f"days from {window.start}", words, verdict, evidence, shown)
