"""The evaluation report: verdict, figures, comparison, slices, stress tests, and the plots that explain them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from components.evaluate.curves import curve
from components.evaluate.evidence import Comparison, Evidence
from millrace.judge.calibration import reliability
from millrace.judge.gates import Verdict
from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats
from millrace.report.page import BAD, COLOURS, MUTED, Page, figure, legend

NAMES = {
    "auc_roc": "AUC ROC",
    "average_precision": "average precision",
    "unit_precision": "card precision",
    "brier": "Brier score",
    "brier_skill": "Brier skill",
    "calibration_error": "calibration error",
    "caught_value_share": "fraud caught, in money",
    "cost_ratio": "cost over doing nothing",
    "logistic_regression": "logistic regression",
    "xgboost": "XGBoost, tuned",
}
PLOT_POINTS = 600


def write(
    path: Path,
    title: str,
    verdict: Verdict,
    evidence: Evidence,
    rows: Judged,
    scores: Mapping[str, Floats],
    training_curve: Sequence[Mapping[str, float]],
) -> None:
    """One HTML page at `path`; `scores` holds the model's under "model" and the others' under their names, [J] each."""
    page = Page("Model evaluation", title)
    page.facts(_facts(evidence))
    page.heading("Verdict", "Every rule with its measured value and its limit; one failure keeps the model out.")
    page.verdict(verdict)
    page.heading("Figures", "On the judged rows of the test week; intervals are 95 %, from resampled cards.")
    page.table(["figure", "value", "low", "high"], _figure_rows(evidence))
    page.figures(_precision_recall(evidence, rows, scores), _calibration(rows, scores["model"]))
    page.figures(_histogram(evidence, rows, scores["model"]), _training(training_curve))
    page.heading("Against others", "On the same rows and the same resamples; a gain above zero favours the model.")
    page.table(["other", "AUC ROC", "AP", "card precision", "gain in AP", "gain in card precision"], _others(evidence))
    page.heading(
        "Slices", "Recall is that of the model's decision threshold. A scenario's slice holds all genuine rows."
    )
    page.table(["slice", "rows", "frauds", "AUC ROC", "AUC, 95 %", "AP", "recall"], _slice_rows(evidence))
    page.heading("Stress tests", "The same rows with bad inputs; every fraud and a sample of the genuine rows.")
    columns = ["what goes wrong", "AP", "share kept", "mean change of a score"]
    stresses = evidence.stresses.items()
    page.table(columns, [(_words(name), s.average_precision, s.kept, s.mean_change) for name, s in stresses])
    page.heading("Attacks", "What a thief gains who knows that he is watched; a flagged payment blocks the card.")
    columns = ["instead of each fraud", "money that passes", "gained by it", "frauds flagged"]
    page.table(columns, [(_words(name), a.passed, a.gained, a.flagged) for name, a in evidence.attacks.items()])
    page.write(path)


def _facts(e: Evidence) -> dict[str, Any]:
    facts = {
        "judged rows": e.protocol.rows,
        "frauds": e.protocol.positives,
        "cards, compromised": f"{e.protocol.units:,}, {e.protocol.positive_units:,}",
        "review capacity": f"{e.review_capacity} cards a day",
        "decision threshold": e.at_threshold.threshold,
        "flagged a day": f"{e.at_threshold.flagged_units_per_day:.0f} cards",
        "precision, recall there": f"{e.at_threshold.precision:.3f}, {e.at_threshold.recall:.3f}",
        "latency p50, p99": f"{e.latency.p50_ms:.2f}, {e.latency.p99_ms:.2f} ms",
    }
    if e.cascade is not None:
        facts["answered by the cheap first model"] = f"{e.cascade.saved_share:.1%} of the rows"
        gain = e.cascade.gain
        facts["AP gained by that"] = f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    return facts


def _figure_rows(e: Evidence) -> list[list[Any]]:
    label = {"unit_precision": f"card precision@{e.review_capacity}"}
    return [[label.get(name, NAMES[name]), f.value, f.low, f.high] for name, f in e.figures.items()]


def _others(e: Evidence) -> list[list[Any]]:
    named: dict[str, Comparison] = {NAMES.get(name, name): found for name, found in e.baselines.items()}
    if e.champion is not None and e.champion.comparison is not None:
        named[f"champion {e.champion.id}"] = e.champion.comparison
    rows = [[name, *c.other.values(), str(c.average_precision), str(c.unit_precision)] for name, c in named.items()]
    own = [getattr(e.protocol, name) for name in ("auc_roc", "average_precision", "unit_precision")]
    return [["this model", *own, "", ""], *rows]


def _slice_rows(e: Evidence) -> list[list[Any]]:
    return [
        [
            _words(n),
            s.rows,
            s.frauds,
            s.auc_roc.value,
            _span(s.auc_roc.low, s.auc_roc.high),
            s.average_precision,
            s.recall,
        ]
        for n, s in e.slices.items()
    ]


def _precision_recall(e: Evidence, rows: Judged, scores: Mapping[str, Floats]) -> tuple[Figure, str]:
    plot, axes = figure("Precision and recall", "recall", "precision")
    for place, (name, values) in enumerate(scores.items()):
        points = curve(rows, values).thinned(PLOT_POINTS)
        style: dict[str, Any] = {"lw": 2} if name == "model" else {"lw": 1.1, "alpha": 0.8}
        label = NAMES.get(name, name)
        axes.plot(points.caught, points.precision, color=COLOURS[place % len(COLOURS)], label=label, **style)
    axes.plot(e.at_threshold.recall, e.at_threshold.precision, "o", color=BAD, label="decision threshold", zorder=5)
    precision, recall = _at_capacity(e, rows, scores["model"])
    axes.plot(recall, precision, "D", color=COLOURS[3], label=f"top {e.review_capacity} cards a day", zorder=5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    legend(axes, loc="lower left")
    return plot, "Rows, not cards. The diamond: flagging, each day, every row of the highest-scored cards."


def _at_capacity(e: Evidence, rows: Judged, scores: Floats) -> tuple[float, float]:
    """Precision and recall, by rows, of the score that the day's k-th card reaches."""
    flagged = np.zeros(len(rows), bool)
    for day in np.unique(rows.day):
        today = np.flatnonzero(rows.day == day)
        best = np.full(rows.units, -np.inf)
        np.maximum.at(best, rows.unit[today], scores[today])
        reached = np.sort(best[np.isfinite(best)])[::-1]
        flagged[today] = scores[today] >= reached[min(e.review_capacity, len(reached)) - 1]
    caught = int((flagged & rows.label).sum())
    return caught / max(int(flagged.sum()), 1), caught / max(int(rows.label.sum()), 1)


def _calibration(rows: Judged, scores: Floats) -> tuple[Figure, str]:
    plot, axes = figure("Calibration", "mean score", "fraud share")
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
    return plot, "Above the line the model is too careful, below it too sure. No fraud in a bin is drawn at the bottom."


def _histogram(e: Evidence, rows: Judged, scores: Floats) -> tuple[Figure, str]:
    plot, axes = figure("Scores", "score", "rows")
    bins = np.linspace(0, 1, 41)
    axes.hist(scores[~rows.label], bins=bins, color=COLOURS[0], alpha=0.75, label="genuine")
    axes.hist(scores[rows.label], bins=bins, color=COLOURS[1], alpha=0.8, label="fraud")
    axes.axvline(e.at_threshold.threshold, color=BAD, lw=1, ls="--", label="decision threshold")
    axes.set_yscale("log")
    axes.minorticks_off()
    legend(axes)
    return plot, "On a logarithmic scale: fraud is rare."


def _training(history: Sequence[Mapping[str, float]]) -> tuple[Figure, str]:
    plot, axes = figure("Training", "epoch", "average precision")
    epochs = [point["epoch"] for point in history]
    axes.plot(epochs, [point["average_precision"] for point in history], color=COLOURS[0], marker="o", ms=3, label="AP")
    loss = axes.twinx()
    loss.plot(epochs, [point["loss"] for point in history], color=COLOURS[1], lw=1.2, label="loss")
    loss.tick_params(labelsize=7.5, colors=COLOURS[1], length=0, direction="in", pad=-22)
    for spine in loss.spines.values():
        spine.set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    caption = "Blue: average precision on the validation days. Orange: training loss, its scale at the right."
    return plot, f"{caption}{_speed(history)}"


def _speed(history: Sequence[Mapping[str, float]]) -> str:
    """A sentence on how well the training used its machine; nothing for a curve that does not tell."""
    if not history or any("stall_share" not in point for point in history):
        return ""
    rows, stall = (float(np.median([point[name] for point in history])) for name in ("samples_per_s", "stall_share"))
    return f" {rows:,.0f} rows a second, {stall:.0%} of the time waiting for them."


def _words(name: str) -> str:
    return name.replace("_", " ")


def _span(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}" if np.isfinite(low) else "–"
