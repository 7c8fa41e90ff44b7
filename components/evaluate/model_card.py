"""The body of a model card: what the model is for, how it was judged, where it must not be trusted.

What is told of each split, of other models and of the limits is the task's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from components.evaluate.evidence import Evidence
from components.evaluate.words import Words, spaced
from millrace.judge.gates import Verdict
from millrace.lake.training_set import TrainingSet

WEAKEST: Final = 3
"""Slices and bad days that a model card names, the weakest first."""

Table = tuple[Sequence[str], Iterable[Sequence[str]]]
"""Columns, and rows of cells."""


def write_model_card(
    evidence: Evidence[Any, Any, Any],
    verdict: Verdict,
    data: TrainingSet,
    words: Words,
    *,
    splits: Table,
    judged_on: str,
    others: Table,
    limits: Sequence[str],
) -> str:
    """Markdown: `judged_on` says which rows counted, `limits` are sentences."""
    purpose = data.workload.judging.PURPOSE.format(service=data.manifest.facts.get("feature_service", ""))
    figures = [
        (words.titled(name), f"{figure.value:.4f}", f"{figure.low:.4f} to {figure.high:.4f}")
        for name, figure in evidence.figures.items()
    ]
    parts = [
        f"## What it is for\n\n{purpose}",
        f"## Data\n\n{_table(splits)}\n\n{judged_on}",
        f"## Figures\n\n{_table((('figure', 'value', '95 % interval'), figures))}\n\n{_table(others)}",
        "## Limits\n\n" + "\n".join(f"- {line}" for line in limits),
        f"Verdict: {verdict.summary().splitlines()[0]}.",
    ]
    return "\n\n".join(parts) + "\n"


def days(split: Mapping[str, Any]) -> str:
    """The first and the last day of a split, as in the training set's facts."""
    return f"{split['first_day']} to {split['last_day']}"


def unjudged(slices: Iterable[str], judged: Mapping[str, Any], what: str) -> list[str]:
    """A sentence that names the slices which have too few of `what` to be judged, where there are any."""
    names = [spaced(name) for name in slices if name not in judged]
    return [f"Too few {what} to say anything about: {', '.join(names)}."] if names else []


def _table(table: Table) -> str:
    columns, rows = table
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("|" + "|".join(_cell(cell) for cell in line) + "|" for line in lines)


def _cell(text: str) -> str:
    return text if text == "---" else f" {text} "
