"""The body of the model card: what the model is for, how it was judged, where it must not be trusted."""

from __future__ import annotations

from typing import Any

from components.evaluate.config import EvaluateConfig
from components.evaluate.evidence import Evidence
from millrace.judge.gates import Verdict
from millrace.settings import settings
from millrace.workload import load


def model_card(
    evidence: Evidence, verdict: Verdict, config: EvaluateConfig, splits: dict[str, Any], service: str
) -> str:
    """Markdown; `splits` as in the training set's facts."""
    known_days = load(settings().workload).judging.COLUMNS.known_days
    lines = [
        "## What it is for",
        "",
        "Scoring card transactions as they happen, so that analysts look at the cards most likely compromised. The",
        f"score is a probability of fraud. It reads the feature service `{service}`: the request, the customer's past",
        "transactions and the terminal's revealed frauds. It is not meant to decline payments by itself, nor to judge",
        "people.",
        "",
        "## Data",
        "",
        "| split | days | rows | frauds |",
        "|---|---|---|---|",
        *(
            f"| {n} | {s['first_day']} to {s['last_day']} | {s['rows']:,} | {s['positives']:,} |"
            for n, s in splits.items()
        ),
        "",
        f"Judged on {evidence.protocol.rows:,} rows of the test week: those of cards that were not yet known to be",
        f"compromised, by frauds of the {known_days} days before it and since. Labels become known a week late.",
        "",
        "## Figures",
        "",
        "| figure | value | 95 % interval |",
        "|---|---|---|",
        *(f"| {name} | {f.value:.4f} | {f.low:.4f} to {f.high:.4f} |" for name, f in evidence.figures.items()),
        "",
        *_others(evidence),
        "",
        "## Limits",
        "",
        *(f"- {line}" for line in limits(evidence, config)),
        "",
        f"Verdict: {verdict.summary().splitlines()[0]}.",
    ]
    return "\n".join(lines) + "\n"


def limits(evidence: Evidence, config: EvaluateConfig) -> list[str]:
    """What the measurements say against relying on the model, one sentence each."""
    at = evidence.at_threshold
    lines = [
        f"At its threshold {at.threshold:.4g} it finds {at.recall:.0%} of the fraudulent transactions and is right in "
        f"{at.precision:.0%} of its alarms; the rest of the fraud passes.",
        "Fraud at a newly compromised terminal is invisible until the first labels come back, about a week later.",
    ]
    judged = {n: s for n, s in evidence.slices.items() if s.frauds >= config.min_slice_positives}
    weak = sorted(judged, key=lambda name: judged[name].auc_roc.value)[:3]
    lines += [f"Weak slice: {n.replace('_', ' ')}, AUC {judged[n].auc_roc}, {judged[n].frauds} frauds." for n in weak]
    unknown = [name.replace("_", " ") for name, part in evidence.slices.items() if name not in judged]
    if unknown:
        lines.append(f"Too few frauds to say anything about: {', '.join(unknown)}.")
    worst = sorted(evidence.stresses.items(), key=lambda item: item[1].kept)[:3]
    lines += [
        f"Under '{n.replace('_', ' ')}' {s.kept:.0%} of its average precision above chance is left." for n, s in worst
    ]
    attack, figures = max(evidence.attacks.items(), key=lambda item: item[1].passed)
    lines.append(
        f"Of the stolen money {figures.passed:.0%} gets past its threshold when a thief '{attack.replace('_', ' ')}', "
        f"{figures.passed - figures.gained:.0%} as the frauds were."
    )
    return lines


def _others(evidence: Evidence) -> list[str]:
    named = dict(evidence.baselines)
    if evidence.champion is not None and evidence.champion.comparison is not None:
        named[f"champion {evidence.champion.id}"] = evidence.champion.comparison
    return [
        "| against | its average precision | gain |",
        "|---|---|---|",
        *(f"| {name} | {c.other['average_precision']:.4f} | {c.average_precision} |" for name, c in named.items()),
    ]
