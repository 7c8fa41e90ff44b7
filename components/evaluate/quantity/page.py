"""What the report on a model of a quantity shows: comparison, slices, stress tests, and plots of its errors.

Words for units and label are the workload's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from components.evaluate.page import Plot, Section, Shown, latency
from components.evaluate.quantity.evidence import Evidence
from components.evaluate.quantity.words import Words
from components.evaluate.words import spaced, span
from millrace.judge.regression import Measured, Predictions
from millrace.report.page import BAD, COLOURS, MUTED, figure, legend

BINS: Final = 12
"""Bins of predictions; each holds as many rows."""
PLOT_ROWS: Final = 3000


def show(
    evidence: Evidence, words: Words, rows: Measured, own: Predictions, others: Mapping[str, Predictions]
) -> Shown:
    """own[J] are the model's predictions, `others` those of the baselines by name."""
    covered = [_coverage(evidence, rows, own, words)] if own.bounded else []
    return Shown(
        facts=_facts(evidence, words),
        plots=[
            [_truth(rows, own, words), _errors(rows, own, others, words)],
            [_by_prediction(rows, own, words), *covered],
        ],
        sections=[_others(evidence, words), _slices(evidence), _stresses(evidence)],
    )


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
    return facts | latency(e)


def _others(e: Evidence, words: Words) -> Section:
    shown = ("mae", "rmse", "bias")
    rows = [["this model", *(e.figures[figure].value for figure in shown), ""]]
    for name, found in e.others().items():
        rows.append([words.name(name), *(found.other[figure] for figure in shown), str(found.gain)])
    lead = "On the same rows and the same resamples; a share above zero favours the model."
    return Section("Against others", lead, ["other", "MAE", "RMSE", "bias", "share of its MAE saved"], rows)


def _slices(e: Evidence) -> Section:
    covered = "coverage" in e.figures
    columns = ["slice", "rows", "MAE", "MAE, 95 %", "bias", *(["coverage"] if covered else []), "over XGBoost", "95 %"]
    rows = [
        [
            spaced(name),
            part.rows,
            part.mae.value,
            span(part.mae),
            part.bias,
            *([part.coverage] if covered else []),
            part.mae_ratio.value,
            span(part.mae_ratio),
        ]
        for name, part in e.slices.items()
    ]
    lead = "The last columns hold the model against XGBoost on the same rows: below 1 it is better."
    return Section("Slices", lead, columns, rows)


def _stresses(e: Evidence) -> Section:
    columns = ["what goes wrong", "MAE", "times as large", "mean change of a prediction"]
    rows = [(spaced(name), stress.mae, stress.growth, stress.mean_change) for name, stress in e.stresses.items()]
    return Section("Stress tests", "A sample of the judged rows on a bad day.", columns, rows)


def _truth(rows: Measured, own: Predictions, words: Words) -> Plot:
    plot, axes = figure("Prediction and truth", words.measured("prediction"), words.measured("truth"))
    thin = np.random.default_rng(0).permutation(len(rows))[:PLOT_ROWS]
    axes.scatter(own.point[thin], rows.truth[thin], s=4, alpha=0.3, color=COLOURS[0], linewidths=0)
    end = float(np.quantile(np.r_[own.point, rows.truth], 0.998))
    start = min(0.0, float(own.point.min()), float(rows.truth.min()))
    axes.plot([start, end], [start, end], color=MUTED, lw=1, ls="--")
    axes.set_xlim(start, end)
    axes.set_ylim(start, end)
    return plot, f"{len(thin):,} of the judged rows; on the dashed line the prediction is true."


def _errors(rows: Measured, own: Predictions, others: Mapping[str, Predictions], words: Words) -> Plot:
    plot, axes = figure("How large errors are", words.measured("absolute error"), "share of rows within")
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


def _by_prediction(rows: Measured, own: Predictions, words: Words) -> Plot:
    plot, axes = figure(
        "Residuals by prediction", words.measured("prediction"), words.measured("truth less prediction")
    )
    points = [(own.point[b].mean(), *np.quantile(rows.truth[b] - own.point[b], [0.1, 0.5, 0.9])) for b in _bins(own)]
    x, low, middle, high = np.array(points).T
    axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.18, lw=0, label="eight rows of ten")
    axes.plot(x, middle, color=COLOURS[0], lw=1.8, marker="o", ms=3, label="median")
    axes.axhline(0, color=MUTED, lw=1, ls="--")
    legend(axes, loc="upper left")
    return plot, "Above zero the model promises too little. The band is as wide as the errors are at that prediction."


def _coverage(e: Evidence, rows: Measured, own: Predictions, words: Words) -> Plot:
    plot, axes = figure("Coverage by prediction", words.measured("prediction"), "share of truths within the interval")
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
