"""The weekly outcome report: how the served model did, how it should be doing now, and what the feed looks like."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib.dates as mdates
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.monitor.config import MonitorConfig
from components.monitor.evidence import Watched
from millrace.judge.gates import Verdict
from millrace.judge.outcomes import Stretch
from millrace.report.page import BAD, COLOURS, MUTED, Page, figure, legend
from millrace.workload import Task

LABELS = {
    "average_precision": "average precision",
    "unit_precision": "{unit} precision",
    "calibration_error": "calibration error",
    "brier_skill": "Brier skill",
    "cost_ratio": "cost over doing nothing",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "bias": "mean error",
    "coverage": "coverage",
    "interval_width": "interval width",
}
SHORT = {"average_precision": "AP", "cost_ratio": "cost", "mae": "MAE", "rmse": "RMSE"}
"""Where the column says more than its head."""
BY_DAY = {
    Task.RANKING: ("average_precision", "unit_precision", "cost_ratio"),
    Task.CLASSIFICATION: ("average_precision", "calibration_error", "brier_skill"),
    Task.REGRESSION: ("mae", "rmse", "coverage"),
}
"""Figures of a day; the first two are drawn."""
SHARES = frozenset({"average_precision", "unit_precision", "calibration_error", "coverage"})
SHOWN_DAYS = 14


def write(path: Path, watched: Watched, verdict: Verdict, config: MonitorConfig) -> None:
    """One HTML page at `path`."""
    workload = watched.workload
    units = workload.judging.UNIT_NOUN[1]
    page = Page("Outcomes", f"as known at {watched.as_of:%Y-%m-%d %H:%M} UTC")

    page.facts(_facts(watched))
    page.heading("Verdict", "A failed rule is an alarm. Decay asks for a retraining; a broken feed does not.")
    page.verdict(verdict)

    for text in _unknown(watched):
        page.text(text)

    dashed = "; dashed: estimated, no labels yet" if watched.estimates else ""
    page.heading("By day and version", f"Intervals are 95 %, from resampled {units}{dashed}.")
    by_day = BY_DAY[workload.task]
    page.figures(*(_by_day(watched, name) for name in by_day[:2]))
    page.figures(_evidence(watched, config), *([_calibration(watched)] if watched.reliability else []))

    page.heading("The last judged week")
    shown = list(dict.fromkeys(name for week in watched.weeks.values() for name in week.figures))
    positives = _positives(watched)
    page.table(
        ["version", "days", "rows", *positives, *(_name(watched, name) for name in shown)], _weeks(watched, shown)
    )

    page.heading("Days", f"The last {SHOWN_DAYS} of them; figures follow once labels are in.")
    heads = [SHORT.get(name) or _name(watched, name) for name in by_day]
    page.table(["day", "version", "rows", "labelled", *positives, *heads], _days(watched, by_day))
    page.write(path)


def _name(w: Watched, figure: str) -> str:
    return LABELS[figure].format(unit=w.workload.judging.UNIT_NOUN[0])


def _positives(w: Watched) -> list[str]:
    """The head of the column of positives, where there are any."""
    return [] if w.workload.task is Task.REGRESSION else [_positive_noun(w)[1]]


def _positive_noun(w: Watched) -> tuple[str, str]:
    return w.workload.ranked.POSITIVE_NOUN if w.workload.task is Task.RANKING else ("positive", "positives")


def _facts(w: Watched) -> dict[str, Any]:
    return {
        "answers in the window": w.feed.answers,
        "serving": ", ".join(f"version {version}" for version in w.serving) or "none",
        "newest event": w.feed.newest_event[:16].replace("T", " "),
        "degraded, last day": w.feed.degraded_share,
        "features missing, last day": w.feed.missing_feature_share,
        "latency p99, last day, ms": w.feed.p99_ms,
        "features unequal to the offline ones": w.agreement.share if w.agreement else None,
    }


def _unknown(w: Watched) -> list[str]:
    """What has no rule because it cannot be known yet."""
    missing = [
        f"Version {version} has no judged day yet: its labels are not in."
        for version in w.serving
        if not w.weeks.get(version)
    ]
    missing += [
        f"Version {version} has no reference: neither an evaluation in the lake nor enough judged days."
        for version in w.serving
        if version not in w.references
    ]

    if w.feed.silences is None:
        missing.append("The feed's volume was not judged: fewer than three whole days are in the log.")
    if w.agreement is None:
        missing.append("Features were not compared with offline ones: no feature set holds these days.")
    return missing


def _by_day(w: Watched, name: str) -> tuple[Figure, str]:
    unit = w.workload.schema.LABEL.unit if name not in SHARES else ""
    plot, axes = figure(_capital(_name(w, name)), "", unit)
    versions = list(dict.fromkeys(day.model_version for day in w.days))

    for place, version in enumerate(versions):
        colour = COLOURS[place % len(COLOURS)]
        judged = [(d.first_day, d.figures[name]) for d in w.days if d.model_version == version and name in d.figures]
        estimated = [(day, figures[name]) for day, v, figures in w.estimates if v == version]
        for points, style in ((judged, "-"), (estimated, "--")):
            if points:
                days = [datetime.combine(day, datetime.min.time()) for day, _ in points]
                axes.plot(days, [f.value for _, f in points], style, color=colour, lw=1.4, marker="o", ms=2.5)
                axes.fill_between(
                    days, [f.low for _, f in points], [f.high for _, f in points], color=colour, alpha=0.13
                )
        axes.plot([], [], color=colour, label=f"version {version}")
        if version in w.references:
            axes.axhline(w.references[version].figures[name].value, color=colour, lw=0.8, ls=":")

    _dates(axes)
    if name in SHARES:
        axes.set_ylim(0, 1.03)
    if versions:
        legend(axes, loc="lower left")
    return plot, "Dotted: what the version had when it was let in."


def _evidence(w: Watched, config: MonitorConfig) -> tuple[Figure, str]:
    plot, axes = figure("Evidence that the loss has grown", "", "")

    for place, (version, items) in enumerate(w.loss.items()):
        days = [datetime.combine(item.day, datetime.min.time()) for item in items]
        values = [min(max(item.value, 1e-3), 1e12) for item in items]
        axes.plot(days, values, color=COLOURS[place % len(COLOURS)], marker="o", ms=2.5, label=f"version {version}")

    axes.axhline(config.mean_days_between_false_alarms, color=BAD, lw=1, ls="--", label="alarm")
    axes.set_yscale("log")
    axes.minorticks_off()
    _dates(axes)
    legend(axes, loc="upper left")
    return plot, f"False alarms are at least {config.mean_days_between_false_alarms:g} days apart on average."


def _calibration(w: Watched) -> tuple[Figure, str]:
    plot, axes = figure("Calibration, last judged week", "mean score", f"{_positive_noun(w)[0]} share")
    axes.plot([1e-4, 1], [1e-4, 1], color=MUTED, lw=1, ls="--", label="perfect")
    for place, (version, points) in enumerate(w.reliability.items()):
        x, y = ([max(point[key], 1e-4) for point in points] for key in ("mean_score", "positive_share"))
        axes.plot(x, y, color=COLOURS[place % len(COLOURS)], marker="o", ms=3, label=f"version {version}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    legend(axes, loc="upper left")
    return plot, "Above the line the model is too careful, below it too sure."


def _weeks(w: Watched, shown: Sequence[str]) -> list[list[Any]]:
    return [
        [version, f"{s.first_day} … {s.last_day}", s.rows, *_count(s), *(str(s.figures[name]) for name in shown)]
        for version, s in w.weeks.items()
    ]


def _days(w: Watched, names: Sequence[str]) -> list[list[Any]]:
    rows = []
    for s in sorted(w.days, key=lambda item: item.first_day)[-SHOWN_DAYS:]:
        figures = [str(s.figures[name]) if name in s.figures else "" for name in names]
        rows.append([str(s.first_day), s.model_version, s.rows, s.labelled_share, *_count(s), *figures])
    return rows


def _count(s: Stretch) -> list[int | None]:
    """The cell of positives: empty while labels are missing, absent where the task has none."""
    if s.positives is None:
        return []
    return [s.positives if s.complete else None]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _dates(axes: Axes) -> None:
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(maxticks=6))
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%d %b"))
