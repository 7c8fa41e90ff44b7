"""The report on a model of classes: verdict, figures, comparison, slices, stress tests, and plots that explain them.

Words for units and positives are the workload's; a section exists where there is something to say in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from components.evaluate.classes.curves import curve
from components.evaluate.classes.evidence import Comparison, Evidence
from components.evaluate.classes.words import Words
from components.evaluate.training_curve import training_plot
from millrace.judge.bootstrap import Interval
from millrace.judge.calibration import reliability
from millrace.judge.gates import Verdict
from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats
from millrace.report.page import BAD, COLOURS, MUTED, Page, figure, legend

PLOT_POINTS = 600


def write(
    path: Path,
    title: str,
    words: Words,
    verdict: Verdict,
    evidence: Evidence,
    rows: Judged,
    scores: Mapping[str, Floats],
    training_curve: Sequence[Mapping[str, float]],
) -> None:
    """One HTML page at `path`; `scores` holds the model's under "model" and the others' under their names, [J] each."""
    page = Page("Model evaluation", title)
    page.facts(_facts(evidence, words))
    page.heading("Verdict", "Every rule with its measured value and its limit; one failure keeps the model out.")
    page.verdict(verdict)
    page.heading("Figures", f"On the judged rows of the test week; intervals are 95 %, from resampled {words.units}.")
    figures = evidence.figures.items()
    page.table(["figure", "value", "low", "high"], [[words.name(n), f.value, f.low, f.high] for n, f in figures])
    page.figures(_precision_recall(evidence, rows, scores, words), _calibration(rows, scores["model"], words))
    drawn = [_histogram(evidence, rows, scores["model"], words)]
    page.figures(*drawn, *([training_plot(training_curve)] if training_curve else []))
    page.heading("Against others", "On the same rows and the same resamples; a gain above zero favours the model.")
    page.table(*_others(evidence, words))
    if evidence.slices:
        _slices(page, evidence, words)
    if evidence.stresses:
        lead = f"The same rows with bad inputs; every {words.positive} and a sample of the {words.negative} rows."
        columns = ["what goes wrong", "AP", "share kept", "mean change of a score"]
        stresses = evidence.stresses.items()
        rows_of = [(_spaced(name), s.average_precision, s.kept, s.mean_change) for name, s in stresses]
        page.heading("Stress tests", lead).table(columns, rows_of)
    if evidence.attacks:
        columns = [
            f"instead of each {words.positive}",
            "money that passes",
            "gained by it",
            f"{words.positives} flagged",
        ]
        attacks = [(_spaced(name), a.passed, a.gained, a.flagged) for name, a in evidence.attacks.items()]
        page.heading("Attacks", words.attack_story).table(columns, attacks)
    page.write(path)


def _facts(e: Evidence, words: Words) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "judged rows": e.protocol.rows,
        words.positives: e.protocol.positives,
        f"{words.units}, {words.marked}": f"{e.protocol.units:,}, {e.protocol.positive_units:,}",
    }
    if e.at_threshold is not None:
        at = e.at_threshold
        facts |= {
            "review capacity": f"{e.review_capacity} {words.units} a day",
            "decision threshold": at.threshold,
            "flagged a day": f"{at.flagged_units_per_day:.0f} {words.units}",
            "precision, recall there": f"{at.precision:.3f}, {at.recall:.3f}",
        }
    facts["latency p50, p99"] = f"{e.latency.p50_ms:.2f}, {e.latency.p99_ms:.2f} ms"
    if e.cascade is not None:
        facts["answered by the cheap first model"] = f"{e.cascade.saved_share:.1%} of the rows"
        gain = e.cascade.gain
        facts["AP gained by that"] = f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    return facts


def _others(e: Evidence, words: Words) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the comparison with others."""
    named: dict[str, Comparison] = {words.name(name): found for name, found in e.baselines.items()}
    if e.champion is not None and e.champion.comparison is not None:
        named[f"champion {e.champion.id}"] = e.champion.comparison
    reviewed = e.protocol.unit_precision is not None
    title = words.name("unit_precision").partition("@")[0]
    columns = ["other", "AUC ROC", "AP", *([title] if reviewed else []), "gain in AP"]
    gains = {name: [str(c.gain), *([str(c.unit_precision)] if reviewed else [])] for name, c in named.items()}
    rows: list[list[Any]] = [[name, *c.other.values(), *gains[name]] for name, c in named.items()]
    own: list[Any] = ["this model", *e.protocol.figures.values(), "", *([""] if reviewed else [])]
    return columns + ([f"gain in {title}"] if reviewed else []), [own, *rows]


def _slices(page: Page, e: Evidence, words: Words) -> None:
    decides = e.at_threshold is not None
    lead = f"A slice of one kind of {words.positive} holds all {words.negative} rows."
    page.heading("Slices", f"Recall is that of the model's decision threshold. {lead}" if decides else "")
    columns = ["slice", "rows", words.positives, "AUC ROC", "AUC, 95 %", "AP", *(["recall"] if decides else [])]
    rows = [
        [_spaced(name), s.rows, s.positives, s.auc_roc.value, _span(s.auc_roc), s.average_precision]
        + ([s.recall] if decides else [])
        for name, s in e.slices.items()
    ]
    page.table(columns, rows)


def _precision_recall(e: Evidence, rows: Judged, scores: Mapping[str, Floats], words: Words) -> tuple[Figure, str]:
    plot, axes = figure("Precision and recall", "recall", "precision")
    for place, (name, values) in enumerate(scores.items()):
        points = curve(rows, values).thinned(PLOT_POINTS)
        style: dict[str, Any] = {"lw": 2} if name == "model" else {"lw": 1.1, "alpha": 0.8}
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(points.caught, points.precision, color=colour, label=words.name(name), **style)
    caption = f"Rows, not {words.units}."
    if e.at_threshold is not None and e.review_capacity is not None:
        axes.plot(e.at_threshold.recall, e.at_threshold.precision, "o", color=BAD, label="decision threshold", zorder=5)
        precision, recall = _at_capacity(e.review_capacity, rows, scores["model"])
        label = f"top {e.review_capacity} {words.units} a day"
        axes.plot(recall, precision, "D", color=COLOURS[3], label=label, zorder=5)
        caption += f" The diamond: flagging, each day, every row of the highest-scored {words.units}."
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    legend(axes, loc="lower left")
    return plot, caption


def _at_capacity(capacity: int, rows: Judged, scores: Floats) -> tuple[float, float]:
    """Precision and recall, by rows, of the score that the day's k-th unit reaches."""
    flagged = np.zeros(len(rows), bool)
    for day in np.unique(rows.day):
        today = np.flatnonzero(rows.day == day)
        best = np.full(rows.units, -np.inf)
        np.maximum.at(best, rows.unit[today], scores[today])
        reached = np.sort(best[np.isfinite(best)])[::-1]
        flagged[today] = scores[today] >= reached[min(capacity, len(reached)) - 1]
    caught = int((flagged & rows.label).sum())
    return caught / max(int(flagged.sum()), 1), caught / max(int(rows.label.sum()), 1)


def _calibration(rows: Judged, scores: Floats, words: Words) -> tuple[Figure, str]:
    plot, axes = figure("Calibration", "mean score", f"share of {words.positives}")
    points = reliability(rows, scores)
    low = 1e-4
    axes.plot([low, 1], [low, 1], color=MUTED, lw=1, ls="--", label="perfect")
    x, y = ([max(point[key], low) for point in points] for key in ("mean_score", "positive_share"))
    sizes = [8 + 10 * np.log10(point["rows"]) for point in points]
    axes.plot(x, y, color=COLOURS[0], lw=1.2)
    axes.scatter(x, y, s=sizes, color=COLOURS[0], label="bins, size by rows")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    legend(axes, loc="upper left")
    caption = "Above the line the model is too careful, below it too sure."
    return plot, f"{caption} A bin without {words.positives} is drawn at the bottom."


def _histogram(e: Evidence, rows: Judged, scores: Floats, words: Words) -> tuple[Figure, str]:
    plot, axes = figure("Scores", "score", "rows")
    bins = np.linspace(0, 1, 41)
    axes.hist(scores[~rows.label], bins=bins, color=COLOURS[0], alpha=0.75, label=words.negative)
    axes.hist(scores[rows.label], bins=bins, color=COLOURS[1], alpha=0.8, label=words.positive)
    if e.at_threshold is not None:
        axes.axvline(e.at_threshold.threshold, color=BAD, lw=1, ls="--", label="decision threshold")
    axes.set_yscale("log")
    axes.minorticks_off()
    legend(axes)
    return plot, "On a logarithmic scale."


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _span(found: Interval) -> str:
    return f"{found.low:.3f} to {found.high:.3f}" if np.isfinite(found.low) else "–"
