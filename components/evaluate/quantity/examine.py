"""A model of a quantity, examined: its case in, figures, verdict and texts out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from components.evaluate.config import quantity_limits
from components.evaluate.examination import GATE, Case, Examination, metrics_of
from components.evaluate.quantity.baselines import fit_baselines
from components.evaluate.quantity.evidence import Evidence, gather
from components.evaluate.quantity.model_card import model_card
from components.evaluate.quantity.rules import judge
from components.evaluate.quantity.words import Words
from components.evaluate.window import TestWindow, model_predictions, open_measured, scores_table
from millrace.errors import InvalidInput, MillraceError
from millrace.judge.gates import Verdict
from millrace.judge.regression import Measured, Predictions
from millrace.lake.manifest import Manifest
from millrace.registry.model_artifact import ModelArtifact


def examine(case: Case) -> Examination:
    """Raises InvalidInput when the test window has no rows to judge."""
    window = open_measured(case.training_set)
    if not len(window.judged):
        raise InvalidInput(f"{case.training_set.id} has no labelled test rows to judge. Assemble a later window.")
    limits, workload = quantity_limits(case.limits), window.data.workload
    answers = model_predictions(case.artifact, window.data, window.rows)
    own = answers.where(window.counts)
    baselines = fit_baselines(window.data, window.rows, limits, case.threads)
    rival = None if case.champion is None else (case.champion.id, champion_answers(case.champion, window, case.threads))

    masks = workload.judging.slices(window.judged_table, window.data.features[window.judged_rows])
    evidence = gather(window, own, case.artifact, baselines, rival, masks, limits)
    verdict = Verdict(GATE, judge(evidence, limits))

    facts = window.data.manifest.facts
    ends = {"low": answers.low, "high": answers.high} if answers.bounded else {}
    others = {name: baseline.predictions.where(window.counts) for name, baseline in baselines.items()}
    return Examination(
        verdict=verdict,
        document=evidence.to_dict(),
        metrics=metrics_of(evidence.figures, evidence.latency),
        facts={},
        scores=scores_table(window, {"score": answers.point, **ends}),
        model_card=model_card(evidence, verdict, limits, workload, facts["splits"], facts.get("feature_service", "")),
        write_page=partial(_write_page, case, window, evidence, verdict, own, others),
    )


def champion_answers(champion: Manifest, window: TestWindow[Measured], threads: int) -> Predictions | str:
    """[J] the champion's predictions of the judged rows, or why it has none."""
    try:
        return model_predictions(ModelArtifact.open(champion.folder, threads=threads), window.data, window.judged_rows)
    except MillraceError as error:
        # The champion may be older than today's features. The rule that compares then fails, and says this.
        return str(error)


def _write_page(
    case: Case,
    window: TestWindow[Measured],
    evidence: Evidence,
    verdict: Verdict,
    own: Predictions,
    others: Mapping[str, Predictions],
    path: Path,
) -> None:
    from components.evaluate.quantity import page  # matplotlib: not for those who only want the figures
    from components.evaluate.training_curve import read_curve

    model, words = case.artifact.manifest, Words.of(window.data.workload)
    title = f"Model {model.id} on the days from {window.start}"
    page.write(path, title, words, verdict, evidence, window.judged, own, others, read_curve(model))
