"""The report on a model of a quantity: verdict, figures, comparison, slices, stress tests, and plots of its errors.

Words for units and label are the workload's; a section exists where there is something to say in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from components.evaluate.quantity.evidence import Evidence
from components.evaluate.quantity.words import Words
from components.evaluate.training_curve import Curve, training_plot
from millrace.judge.bootstrap import Interval
from millrace.judge.gates import Verdict
from millrace.judge.regression import Measured, Predictions
from millrace.report.page import BAD, COLOURS, MUTED, Page, figure, legend

BINS: Final = 12
"""Of predictions, as many rows in each."""
PLOT_ROWS: Final = 3000


def write(
    path: Path,
    title: str,
    words: Words,
    verdict: Verdict,
    evidence: Evidence,
    rows: Measured,
    own: Predictions,
    others: Mapping[str, Predictions],
    training_curve: Curve,
) -> None:
    """One HTML page at `path`; own[J] are the model's predictions, `others` those of the baselines by name."""
    page = Page("Model evaluation", title)
    page.facts(_facts(evidence, words))
    page.heading("Verdict", "Every rule with its measured value and its limit; one failure keeps the model out.")
    page.verdict(verdict)
    page.heading("Figures", f"On the judged rows of the test window; intervals are 95 %, from resampled {words.units}.")
    figures = evidence.figures.items()
    page.table(["figure", "value", "low", "high"], [[words.titled(n), f.value, f.low, f.high] for n, f in figures])
    page.figures(_truth(rows, own, words), _errors(rows, own, others, words))
    plots = [_by_prediction(rows, own, words)]
    plots += [_coverage(evidence, rows, own, words)] if own.bounded else []
    plots += [training_plot(training_curve)] if training_curve else []
    page.figures(*plots)
    page.heading("Against others", "On the same rows and the same resamples; a share above zero favours the model.")
    page.table(["other", "MAE", "RMSE", "bias", "share of its MAE saved"], _others(evidence, words))
    if evidence.slices:
        _slices(page, evidence)
    if evidence.stresses:
        columns = ["what goes wrong", "MAE", "times as large", "mean change of a prediction"]
        stresses = evidence.stresses.items()
        page.heading("Stress tests", "A sample of the judged rows on a bad day.")
        page.table(columns, [(_spaced(name), s.mae, s.growth, s.mean_change) for name, s in stresses])
    page.write(path)


def _facts(e: Evidence, words: Words) -> dict[str, Any]:
    facts = {
        "judged rows": e.rows,
        words.units: e.units,
        words.titled("mae"): e.figures["mae"].value,
        words.titled("rmse"): e.figures["rmse"].value,
    }
    if "coverage" in e.figures:
        facts["truth within the interval"] = f"{e.figures['coverage'].value:.1%}"
        facts[words.titled("interval_width")] = e.figures["interval_width"].value
    return facts | {"latency p50, p99": f"{e.latency.p50_ms:.2f}, {e.latency.p99_ms:.2f} ms"}


def _others(e: Evidence, words: Words) -> list[list[Any]]:
    named = {words.name(name): found for name, found in e.baselines.items()}
    if e.champion is not None and e.champion.comparison is not None:
        named[f"champion {e.champion.id}"] = e.champion.comparison
    shown = ("mae", "rmse", "bias")
    rows = [[name, *(c.other[figure] for figure in shown), str(c.gain)] for name, c in named.items()]
    return [["this model", *(e.figures[figure].value for figure in shown), ""], *rows]


def _slices(page: Page, e: Evidence) -> None:
    covered = "coverage" in e.figures
    page.heading("Slices", "The last columns hold the model against XGBoost on the same rows: below 1 it is better.")
    columns = ["slice", "rows", "MAE", "MAE, 95 %", "bias", *(["coverage"] if covered else []), "over XGBoost", "95 %"]
    rows = [
        [_spaced(name), s.rows, s.mae.value, _span(s.mae), s.bias]
        + ([s.coverage] if covered else [])
        + [s.mae_ratio.value, _span(s.mae_ratio)]
        for name, s in e.slices.items()
    ]
    page.table(columns, rows)


def _truth(rows: Measured, own: Predictions, words: Words) -> tuple[Figure, str]:
    plot, axes = figure("Prediction and truth", _titled("prediction", words), _titled("truth", words))
    thin = np.random.default_rng(0).permutation(len(rows))[:PLOT_ROWS]
    axes.scatter(own.point[thin], rows.truth[thin], s=4, alpha=0.3, color=COLOURS[0], linewidths=0)
    end = float(np.quantile(np.r_[own.point, rows.truth], 0.998))
    start = min(0.0, float(own.point.min()), float(rows.truth.min()))
    axes.plot([start, end], [start, end], color=MUTED, lw=1, ls="--")
    axes.set_xlim(start, end)
    axes.set_ylim(start, end)
    return plot, f"{len(thin):,} of the judged rows; on the dashed line the prediction is true."


def _errors(rows: Measured, own: Predictions, others: Mapping[str, Predictions], words: Words) -> tuple[Figure, str]:
    plot, axes = figure("How large errors are", _titled("absolute error", words), "share of rows within")
    end = float(np.quantile(np.abs(own.point - rows.truth), 0.99))
    levels = np.linspace(0, 1, 200)
    for place, (name, answers) in enumerate({"this model": own, **others}.items()):
        errors = np.quantile(np.abs(answers.point - rows.truth), levels)
        style: dict[str, Any] = {"lw": 2} if place == 0 else {"lw": 1.1, "alpha": 0.8}
        axes.plot(errors, levels, color=COLOURS[place % len(COLOURS)], label=words.name(name), **style)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1)
    legend(axes, loc="lower right")
    return plot, "The higher the curve, the more rows are predicted that closely."


def _by_prediction(rows: Measured, own: Predictions, words: Words) -> tuple[Figure, str]:
    plot, axes = figure(
        "Residuals by prediction", _titled("prediction", words), _titled("truth less prediction", words)
    )
    points = [(own.point[b].mean(), *np.quantile(rows.truth[b] - own.point[b], [0.1, 0.5, 0.9])) for b in _bins(own)]
    x, low, middle, high = np.array(points).T
    axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.18, lw=0, label="eight rows of ten")
    axes.plot(x, middle, color=COLOURS[0], lw=1.8, marker="o", ms=3, label="median")
    axes.axhline(0, color=MUTED, lw=1, ls="--")
    legend(axes, loc="upper left")
    return plot, "Above zero the model promises too little. The band is as wide as the errors are at that prediction."


def _coverage(e: Evidence, rows: Measured, own: Predictions, words: Words) -> tuple[Figure, str]:
    plot, axes = figure("Coverage by prediction", _titled("prediction", words), "share of truths within the interval")
    inside = (rows.truth >= own.low) & (rows.truth <= own.high)
    points = [(own.point[b].mean(), inside[b].mean()) for b in _bins(own)]
    x, y = np.array(points).T
    axes.plot(x, y, color=COLOURS[0], lw=1.8, marker="o", ms=3, label="by prediction")
    axes.axhline(e.figures["coverage"].value, color=BAD, lw=1, ls="--", label="all rows")
    axes.set_ylim(min(0.5, float(y.min())), 1.01)
    legend(axes, loc="lower left")
    return plot, "An honest interval holds as many truths among small predictions as among large ones."


def _bins(own: Predictions) -> list[Any]:
    """Places of the rows from the smallest prediction up, in bins of equally many; none is empty."""
    order = np.argsort(own.point, kind="stable")
    return [part for part in np.array_split(order, min(BINS, len(order))) if len(part)]


def _titled(what: str, words: Words) -> str:
    return f"{what}, {words.unit}" if words.unit else what


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _span(found: Interval) -> str:
    return f"{found.low:.3f} to {found.high:.3f}" if np.isfinite(found.low) else "–"
