"""The body of the model card of a quantity: what it is for, how it was judged, where it must not be trusted."""

from __future__ import annotations

from typing import Any

from components.evaluate.config import QuantityLimits
from components.evaluate.quantity.evidence import Evidence
from components.evaluate.quantity.words import Words
from millrace.installed import Workload
from millrace.judge.gates import Verdict


def model_card(
    evidence: Evidence,
    verdict: Verdict,
    limits: QuantityLimits,
    workload: Workload,
    splits: dict[str, Any],
    service: str,
) -> str:
    """Markdown; `splits` as in the training set's facts."""
    words = Words.of(workload)
    lines = [
        "## What it is for",
        "",
        workload.judging.PURPOSE.format(service=service),
        "",
        "## Data",
        "",
        "| split | days | rows |",
        "|---|---|---|",
        *(f"| {name} | {s['first_day']} to {s['last_day']} | {s['rows']:,} |" for name, s in splits.items()),
        "",
        f"Judged on {evidence.rows:,} rows of the test window: those whose label ({words.label}) is known.",
        "",
        "## Figures",
        "",
        "| figure | value | 95 % interval |",
        "|---|---|---|",
        *(f"| {words.titled(n)} | {f.value:.4f} | {f.low:.4f} to {f.high:.4f} |" for n, f in evidence.figures.items()),
        "",
        *_others(evidence, words),
        "",
        "## Limits",
        "",
        *(f"- {line}" for line in limits_of_use(evidence, limits, workload, words)),
        "",
        f"Verdict: {verdict.summary().splitlines()[0]}.",
    ]
    return "\n".join(lines) + "\n"


def limits_of_use(evidence: Evidence, limits: QuantityLimits, workload: Workload, words: Words) -> list[str]:
    """What the measurements say against relying on the model, one sentence each."""
    p90 = evidence.figures["p90_error"].value
    lines = [f"One prediction in ten is off by more than {p90:.3g} {words.unit}.", *workload.judging.CAVEATS]
    if "coverage" in evidence.figures:
        missed = 1 - evidence.figures["coverage"].value
        lines.append(f"In {missed:.0%} of the cases the truth lies outside the interval that it gives.")
    judged = {name: part for name, part in evidence.slices.items() if part.rows >= limits.min_slice_rows}
    weak = sorted(judged, key=lambda name: -judged[name].mae.value)[:3]
    lines += [f"Weak slice: {n.replace('_', ' ')}, MAE {judged[n].mae}, {judged[n].rows:,} rows." for n in weak]
    unknown = [name.replace("_", " ") for name in evidence.slices if name not in judged]
    if unknown:
        lines.append(f"Too few rows to say anything about: {', '.join(unknown)}.")
    worst = sorted(evidence.stresses.items(), key=lambda item: -item[1].growth)[:3]
    lines += [f"Under '{n.replace('_', ' ')}' its MAE is {s.growth:.2f} times as large." for n, s in worst]
    return lines


def _others(evidence: Evidence, words: Words) -> list[str]:
    named = {words.name(name): found for name, found in evidence.baselines.items()}
    if evidence.champion is not None and evidence.champion.comparison is not None:
        named[f"champion {evidence.champion.id}"] = evidence.champion.comparison
    return [
        "| against | its MAE | share of it that is saved |",
        "|---|---|---|",
        *(f"| {name} | {c.other['mae']:.4f} | {c.gain} |" for name, c in named.items()),
    ]
