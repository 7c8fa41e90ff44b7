"""What the model card of a quantity says beside what all model cards say: the size of its errors, and its interval."""

from __future__ import annotations

from components.evaluate.config import QuantityLimits
from components.evaluate.model_card import WEAKEST, days, unjudged, write_model_card
from components.evaluate.quantity.evidence import Evidence
from components.evaluate.quantity.words import Words
from components.evaluate.words import spaced
from millrace.installed import Workload
from millrace.judge.gates import Verdict
from millrace.lake.training_set import TrainingSet


def model_card(evidence: Evidence, verdict: Verdict, limits: QuantityLimits, data: TrainingSet, words: Words) -> str:
    """Markdown."""
    splits = [(name, days(split), f"{split['rows']:,}") for name, split in data.manifest.facts["splits"].items()]
    others = [
        (words.name(name), f"{found.other['mae']:.4f}", str(found.gain)) for name, found in evidence.others().items()
    ]
    rows = f"{evidence.rows:,} rows of the {words.window}"
    return write_model_card(
        evidence,
        verdict,
        data,
        words,
        splits=(("split", "days", "rows"), splits),
        judged_on=f"Judged on {rows}: those whose label ({words.label}) is known.",
        others=(("against", "its MAE", "share of it that is saved"), others),
        limits=limits_of_use(evidence, limits, data.workload, words),
    )


def limits_of_use(evidence: Evidence, limits: QuantityLimits, workload: Workload, words: Words) -> list[str]:
    """What the measurements say against relying on the model, one sentence each."""
    p90 = evidence.figures["p90_error"].value
    judged = {name: part for name, part in evidence.slices.items() if part.rows >= limits.min_slice_rows}
    weak = sorted(judged, key=lambda name: -judged[name].mae.value)[:WEAKEST]
    worst = sorted(evidence.stresses, key=lambda name: -evidence.stresses[name].growth)[:WEAKEST]
    return [
        f"One prediction in ten is off by more than {p90:.3g} {words.unit}.",
        *workload.judging.CAVEATS,
        *_outside(evidence),
        *(f"Weak slice: {spaced(name)}, MAE {judged[name].mae}, {judged[name].rows:,} rows." for name in weak),
        *unjudged(evidence.slices, judged, "rows"),
        *(f"Under '{spaced(name)}' its MAE is {evidence.stresses[name].growth:.2f} times as large." for name in worst),
    ]


def _outside(evidence: Evidence) -> list[str]:
    if "coverage" not in evidence.figures:
        return []

    missed = 1 - evidence.figures["coverage"].value
    return [f"In {missed:.0%} of the cases the truth lies outside the interval that it gives."]
