"""The report on a model, whatever its task: verdict, figures, plots that explain them, and tables of the rest.

A task brings facts, plots and sections; a section exists where there is something to say in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from components.evaluate.evidence import Evidence
from components.evaluate.training_curve import read_curve, training_plot
from components.evaluate.words import Words
from millrace.judge.gates import Verdict
from millrace.lake.manifest import Manifest
from millrace.report.page import Page

Plot = tuple[Figure, str]
"""A plot and its caption."""


@dataclass(frozen=True, slots=True)
class Section:
    """A table with a heading."""

    title: str
    lead: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a task shows beside verdict and figures."""

    facts: Mapping[str, Any]
    plots: Sequence[Sequence[Plot]]
    """Plots that stand side by side, row by row."""
    sections: Sequence[Section]


def write(
    path: Path,
    model: Manifest,
    days: str,
    words: Words,
    verdict: Verdict,
    evidence: Evidence[Any, Any, Any],
    shown: Shown,
) -> None:
    """One HTML page at `path`, titled by the model and the `days` that it was judged on.

    The plot of its training ends the last row of plots; a section without rows is left out.
    """
    page = Page("Model evaluation", f"Model {model.id} on the {days}")
    page.facts(dict(shown.facts))
    page.heading("Verdict", "Every rule with its measured value and its limit; one failure keeps the model out.")
    page.verdict(verdict)

    lead = f"On the judged rows of the {words.window}; intervals are 95 %, from resampled {words.units}."
    figures = [(words.titled(name), f.value, f.low, f.high) for name, f in evidence.figures.items()]
    page.heading("Figures", lead).table(["figure", "value", "low", "high"], figures)

    *rows, last = shown.plots
    curve = read_curve(model)
    learned = [training_plot(curve)] if curve else []
    for row in (*rows, [*last, *learned]):
        page.figures(*row)
    for section in shown.sections:
        if section.rows:
            page.heading(section.title, section.lead).table(section.columns, section.rows)
    page.write(path)


def latency(evidence: Evidence[Any, Any, Any]) -> dict[str, str]:
    """The fact that says how fast an answer is."""
    return {"latency p50, p99": f"{evidence.latency.p50_ms:.2f}, {evidence.latency.p99_ms:.2f} ms"}
