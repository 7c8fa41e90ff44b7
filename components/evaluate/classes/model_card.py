"""What the model card of classes says beside what all model cards say: positives, the decision threshold, attacks."""

from __future__ import annotations

from components.evaluate.classes.evidence import Evidence
from components.evaluate.classes.words import Words
from components.evaluate.config import ClassLimits
from components.evaluate.model_card import WEAKEST, days, unjudged, write_model_card
from components.evaluate.words import spaced
from millrace.installed import Workload
from millrace.judge.gates import Verdict
from millrace.lake.training_set import TrainingSet


def model_card(evidence: Evidence, verdict: Verdict, limits: ClassLimits, data: TrainingSet, words: Words) -> str:
    """Markdown."""
    splits = [
        (name, days(split), f"{split['rows']:,}", f"{split['positives']:,}")
        for name, split in data.manifest.facts["splits"].items()
    ]
    others = [
        (name, f"{found.other['average_precision']:.4f}", str(found.gain)) for name, found in evidence.others().items()
    ]
    return write_model_card(
        evidence,
        verdict,
        data,
        words,
        splits=(("split", "days", "rows", words.positives), splits),
        judged_on=_judged_on(evidence, data.workload, words),
        others=(("against", "its average precision", "gain"), others),
        limits=limits_of_use(evidence, limits, data.workload, words),
    )


def limits_of_use(evidence: Evidence, limits: ClassLimits, workload: Workload, words: Words) -> list[str]:
    """What the measurements say against relying on the model, one sentence each."""
    judged = {name: part for name, part in evidence.slices.items() if part.positives >= limits.min_slice_positives}
    weak = sorted(judged, key=lambda name: judged[name].auc_roc.value)[:WEAKEST]
    worst = sorted(evidence.stresses, key=lambda name: evidence.stresses[name].kept)[:WEAKEST]
    return [
        *_at_threshold(evidence, words),
        *workload.judging.CAVEATS,
        *(
            f"Weak slice: {spaced(name)}, AUC {judged[name].auc_roc}, {judged[name].positives} {words.positives}."
            for name in weak
        ),
        *unjudged(evidence.slices, judged, words.positives),
        *(
            f"Under '{spaced(name)}' {evidence.stresses[name].kept:.0%} of its average precision above chance is left."
            for name in worst
        ),
        *_worst_attack(evidence, words),
    ]


def _at_threshold(evidence: Evidence, words: Words) -> list[str]:
    at = evidence.at_threshold
    if at is None:
        return []
    return [
        f"At its threshold {at.threshold:.4g} it finds {at.recall:.0%} of the {words.positives} and is right in "
        f"{at.precision:.0%} of its alarms; the other {words.positives} pass."
    ]


def _worst_attack(evidence: Evidence, words: Words) -> list[str]:
    if not evidence.attacks:
        return []

    attack, figures = max(evidence.attacks.items(), key=lambda item: item[1].passed)
    usual = figures.passed - figures.gained
    return [
        f"Of the money at stake {figures.passed:.0%} gets past its threshold under '{spaced(attack)}', "
        f"{usual:.0%} as the {words.positives} were."
    ]


def _judged_on(evidence: Evidence, workload: Workload, words: Words) -> str:
    """Which rows counted, and when their labels were known."""
    known_days = workload.judging.COLUMNS.known_days
    delay = workload.schema.LABEL.delay_days
    rows = f"Judged on {evidence.protocol.rows:,} rows of the {words.window}"
    if known_days:
        rows += f": those of {words.units} that were not yet known to be\n{words.marked}, by {words.positives} of the "
        rows += f"{known_days} days before it and since"
    when = f"Labels become known after {delay} days." if delay else "Labels become known on the same day."
    return f"{rows}. {when}"
