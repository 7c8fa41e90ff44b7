"""What the report on a model of classes shows: comparison, slices, stress tests, attacks, and plots of its scores.

Words for units and positives are the workload's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from components.evaluate.classes.curves import curve
from components.evaluate.classes.evidence import Evidence
from components.evaluate.classes.words import Words
from components.evaluate.page import Plot, Section, Shown, latency
from components.evaluate.words import spaced, span
from millrace.judge.calibration import reliability
from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats
from millrace.report.page import BAD, COLOURS, MUTED, figure, legend

PLOT_POINTS: Final = 600


def show(evidence: Evidence, words: Words, rows: Judged, scores: Mapping[str, Floats]) -> Shown:
    """`scores` holds the model's under "model" and the others' under their names, [J] each."""
    own = scores["model"]
    return Shown(
        facts=_facts(evidence, words),
        plots=[
            [_precision_recall(evidence, rows, scores, words), _calibration(rows, own, words)],
            [_histogram(evidence, rows, own, words)],
        ],
        sections=[
            _others(evidence, words),
            _slices(evidence, words),
            _stresses(evidence, words),
            _attacks(evidence, words),
        ],
    )


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
    facts |= latency(e)
    if e.cascade is not None:
        gain = e.cascade.gain
        facts["answered by the cheap first model"] = f"{e.cascade.saved_share:.1%} of the rows"
        facts["AP gained by that"] = f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    return facts


def _others(e: Evidence, words: Words) -> Section:
    reviewed = e.protocol.unit_precision is not None
    unit_precision = words.name("unit_precision").partition("@")[0]
    columns = ["other", "AUC ROC", "AP", "gain in AP"]
    rows = [["this model", *e.protocol.figures.values(), ""]]
    for name, found in e.others().items():
        rows.append([words.name(name), *found.other.values(), str(found.gain)])

    if reviewed:
        columns.insert(3, unit_precision)
        columns.append(f"gain in {unit_precision}")
        gains = ["", *(str(found.unit_precision) for found in e.others().values())]
        rows = [[*row, gain] for row, gain in zip(rows, gains, strict=True)]
    lead = "On the same rows and the same resamples; a gain above zero favours the model."
    return Section("Against others", lead, columns, rows)


def _slices(e: Evidence, words: Words) -> Section:
    columns = ["slice", "rows", words.positives, "AUC ROC", "AUC, 95 %", "AP"]
    rows: list[list[Any]] = [
        [spaced(name), part.rows, part.positives, part.auc_roc.value, span(part.auc_roc), part.average_precision]
        for name, part in e.slices.items()
    ]
    if e.at_threshold is None:
        return Section("Slices", "", columns, rows)

    lead = "Recall is that of the model's decision threshold. "
    lead += f"A slice of one kind of {words.positive} holds all {words.negative} rows."
    recalls = [part.recall for part in e.slices.values()]
    rows = [[*row, recall] for row, recall in zip(rows, recalls, strict=True)]
    return Section("Slices", lead, [*columns, "recall"], rows)


def _stresses(e: Evidence, words: Words) -> Section:
    lead = f"The same rows with bad inputs; every {words.positive} and a sample of the {words.negative} rows."
    columns = ["what goes wrong", "AP", "share kept", "mean change of a score"]
    rows = [(spaced(name), s.average_precision, s.kept, s.mean_change) for name, s in e.stresses.items()]
    return Section("Stress tests", lead, columns, rows)


def _attacks(e: Evidence, words: Words) -> Section:
    columns = [
        f"instead of each {words.positive}",
        "money that passes",
        "gained by it",
        f"{words.positives} flagged",
    ]
    rows = [(spaced(name), attack.passed, attack.gained, attack.flagged) for name, attack in e.attacks.items()]
    return Section("Attacks", words.attack_story, columns, rows)


def _precision_recall(e: Evidence, rows: Judged, scores: Mapping[str, Floats], words: Words) -> Plot:
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


def _calibration(rows: Judged, scores: Floats, words: Words) -> Plot:
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


def _histogram(e: Evidence, rows: Judged, scores: Floats, words: Words) -> Plot:
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
