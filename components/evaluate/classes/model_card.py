"""The body of the model card of classes: what it is for, how it was judged, where it must not be trusted."""

from __future__ import annotations

from typing import Any

from components.evaluate.classes.evidence import Evidence
from components.evaluate.classes.words import Words
from components.evaluate.config import ClassLimits
from millrace.installed import Workload
from millrace.judge.gates import Verdict


def model_card(
    evidence: Evidence, verdict: Verdict, limits: ClassLimits, workload: Workload, splits: dict[str, Any], service: str
) -> str:
    """Markdown; `splits` as in the training set's facts."""
    words = Words.of(workload, evidence.review_capacity)
    lines = [
        "## What it is for",
        "",
        workload.judging.PURPOSE.format(service=service),
        "",
        "## Data",
        "",
        f"| split | days | rows | {words.positives} |",
        "|---|---|---|---|",
        *(
            f"| {n} | {s['first_day']} to {s['last_day']} | {s['rows']:,} | {s['positives']:,} |"
            for n, s in splits.items()
        ),
        "",
        _judged_on(evidence, workload, words),
        "",
        "## Figures",
        "",
        "| figure | value | 95 % interval |",
        "|---|---|---|",
        *(f"| {words.name(n)} | {f.value:.4f} | {f.low:.4f} to {f.high:.4f} |" for n, f in evidence.figures.items()),
        "",
        *_others(evidence),
        "",
        "## Limits",
        "",
        *(f"- {line}" for line in limits_of_use(evidence, limits, workload, words)),
        "",
        f"Verdict: {verdict.summary().splitlines()[0]}.",
    ]
    return "\n".join(lines) + "\n"


def limits_of_use(evidence: Evidence, limits: ClassLimits, workload: Workload, words: Words) -> list[str]:
    """What the measurements say against relying on the model, one sentence each."""
    lines = []
    if evidence.at_threshold is not None:
        at = evidence.at_threshold
        lines.append(
            f"At its threshold {at.threshold:.4g} it finds {at.recall:.0%} of the {words.positives} and is right in "
            f"{at.precision:.0%} of its alarms; the other {words.positives} pass."
        )
    lines += workload.judging.CAVEATS
    judged = {n: s for n, s in evidence.slices.items() if s.positives >= limits.min_slice_positives}
    weak = sorted(judged, key=lambda name: judged[name].auc_roc.value)[:3]
    lines += [
        f"Weak slice: {n.replace('_', ' ')}, AUC {judged[n].auc_roc}, {judged[n].positives} {words.positives}."
        for n in weak
    ]
    unknown = [name.replace("_", " ") for name in evidence.slices if name not in judged]
    if unknown:
        lines.append(f"Too few {words.positives} to say anything about: {', '.join(unknown)}.")
    worst = sorted(evidence.stresses.items(), key=lambda item: item[1].kept)[:3]
    lines += [
        f"Under '{n.replace('_', ' ')}' {s.kept:.0%} of its average precision above chance is left." for n, s in worst
    ]
    if evidence.attacks:
        attack, figures = max(evidence.attacks.items(), key=lambda item: item[1].passed)
        lines.append(
            f"Of the money at stake {figures.passed:.0%} gets past its threshold under '{attack.replace('_', ' ')}', "
            f"{figures.passed - figures.gained:.0%} as the {words.positives} were."
        )
    return lines


def _judged_on(evidence: Evidence, workload: Workload, words: Words) -> str:
    """Which rows counted, and when their labels were known."""
    known_days, delay = workload.judging.COLUMNS.known_days, workload.schema.LABEL.delay_days
    rows = f"Judged on {evidence.protocol.rows:,} rows of the test week"
    if known_days:
        rows += f": those of {words.units} that were not yet known to be\n{words.marked}, by {words.positives} of the "
        rows += f"{known_days} days before it and since"
    when = f"Labels become known after {delay} days." if delay else "Labels become known on the same day."
    return f"{rows}. {when}"


def _others(evidence: Evidence) -> list[str]:
    named = dict(evidence.baselines)
    if evidence.champion is not None and evidence.champion.comparison is not None:
        named[f"champion {evidence.champion.id}"] = evidence.champion.comparison
    return [
        "| against | its average precision | gain |",
        "|---|---|---|",
        *(f"| {name} | {c.other['average_precision']:.4f} | {c.gain} |" for name, c in named.items()),
    ]
