"""The validation report: what was judged, against what, and the pictures that show a fault at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from components.validate.comparison import Comparison
from components.validate.config import ValidateConfig
from components.validate.days import expected_rows
from components.validate.profile import BINS_PER_E, MINUTES, ZERO_BIN, Profile
from millrace.fields import Field
from millrace.installed import Workload, load
from millrace.judge.gates import Verdict
from millrace.lake.manifest import Manifest
from millrace.report.page import COLOURS, Page, figure, legend
from millrace.workload import Task

WIDE = {"width": 4.9, "height": 2.7}


def write(
    path: Path,
    snapshot: Manifest,
    verdict: Verdict,
    comparison: Comparison,
    config: ValidateConfig,
    facts: dict[str, Any],
) -> None:
    """One HTML page at `path`."""
    workload = load(snapshot.workload)
    values = comparison.measured.values
    page = Page("Data validation", f"Snapshot {snapshot.id}, {_span(snapshot.facts)}")
    page.facts(
        {
            workload.event[1]: int(comparison.snapshot.rows.sum()),
            "days": len(comparison.snapshot),
            "judged": _extent(facts["current"]),
            "compared with": _extent(facts["reference"]),
            "predecessor": facts["previous"] or "none: its own first weeks",
            "unfinished days, not judged": ", ".join(facts["unfinished"]) or "none",
            "rejected by ingest": comparison.quarantined,
        }
    )

    page.heading("Verdict", "Every rule with its measured value and its limit; one failure blocks the pipeline.")
    page.verdict(verdict)

    page.heading("Days")
    daily = [_rows_plot(comparison, config, workload), *(_median_plot(comparison, field) for field in values)]
    if comparison.measured.classes:
        daily.append(_positives_plot(comparison, workload))
    if comparison.first_seen:
        daily.append(_new_plot(comparison))
    page.figures(*daily)

    page.heading("Distributions", "The current days against the reference, as shares of each one's rows.")
    page.figures(*(_values_plot(comparison, field) for field in values), _time_plot(comparison))
    page.write(path)


def _rows_plot(c: Comparison, config: ValidateConfig, workload: Workload) -> tuple[Figure, str]:
    plot, axes = figure(f"{workload.event[1].capitalize()} per day", "", "rows", **WIDE)
    expected, tolerance = expected_rows(c, config)
    dates = _dates(c.snapshot)
    axes.fill_between(dates, expected * (1 - tolerance), expected * (1 + tolerance), color=COLOURS[0], alpha=0.12, lw=0)
    _line(axes, c, c.snapshot.rows)
    return (
        plot,
        f"Shaded: the expected number of that weekday ± {tolerance.max():.0%}. Orange: the days judged as a whole.",
    )


def _median_plot(c: Comparison, field: Field) -> tuple[Figure, str]:
    plot, axes = figure(f"Median {_called(field)} per day", "", field.unit, **WIDE)
    _line(axes, c, c.snapshot.values[field.name].median)
    return plot, "A step by a factor of ten or a hundred is a change of unit."


def _positives_plot(c: Comparison, workload: Workload) -> tuple[Figure, str]:
    noun = workload.ranked.POSITIVE_NOUN[0] if workload.task is Task.RANKING else "positives"
    plot, axes = figure(f"{noun.capitalize()} among labelled rows", "", "percent", **WIDE)
    share = 100 * c.snapshot.positives / np.maximum(c.snapshot.labelled, 1)
    _line(axes, c, np.where(c.snapshot.labelled > 0, share, np.nan))
    return plot, "Days whose labels are not known yet are left out."


def _new_plot(c: Comparison) -> tuple[Figure, str]:
    plot, axes = figure("First seen on this day", "", "", **WIDE)
    for place, (name, counts) in enumerate(c.first_seen.items()):
        colour = COLOURS[(2 * place) % len(COLOURS)]
        axes.plot(_dates(c.snapshot), counts, color=colour, lw=1.3, label=name)
    axes.set_yscale("symlog")
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", rotation=30)
    legend(axes)
    return plot, "Falls off as the usual ones have been met; a wave of new ids is a change of keys."


def _values_plot(c: Comparison, field: Field) -> tuple[Figure, str]:
    plot, axes = figure(_called(field).capitalize(), field.unit, "share of rows", **WIDE)
    before = c.reference.values[field.name].bins.sum(axis=0)
    now = c.snapshot.values[field.name].bins[c.current]
    pair = {"reference": before, "current": now.sum(axis=0)}
    used = np.flatnonzero(sum(pair.values()))
    # Eight narrow bins together.
    first = used.min(initial=ZERO_BIN) // 8
    last = used.max(initial=ZERO_BIN) // 8 + 1
    edges = _edges(8 * np.arange(first, last + 1))

    for (name, counts), colour in zip(pair.items(), COLOURS, strict=False):
        eight = counts[8 * first : 8 * last].reshape(-1, 8).sum(axis=1)
        axes.stairs(eight / max(eight.sum(), 1), edges, color=colour, label=name, lw=1.4)

    axes.set_xscale("symlog")
    legend(axes, loc="upper left")
    return plot, "On a logarithmic scale, so that a change of unit is a shift."


def _edges(bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values at which bins of `profile` begin."""
    steps = (bins - ZERO_BIN) / BINS_PER_E
    values: NDArray[np.float64] = np.sign(steps) * np.expm1(np.abs(steps))
    return values


def _time_plot(c: Comparison) -> tuple[Figure, str]:
    plot, axes = figure("Time of day", "hour, UTC", "share of rows", **WIDE)
    pair = {"reference": c.reference.minutes.sum(axis=0), "current": c.snapshot.minutes[c.current].sum(axis=0)}
    for (name, counts), colour in zip(pair.items(), COLOURS, strict=False):
        half_hours = counts.reshape(48, MINUTES // 48).sum(axis=1)
        axes.stairs(half_hours / max(half_hours.sum(), 1), np.arange(49) / 2, color=colour, label=name, lw=1.4)
    axes.set_xticks(range(0, 25, 4))
    legend(axes)
    return plot, "A curve moved sideways is local time in place of UTC."


def _called(field: Field) -> str:
    return field.name.replace("_", " ")


def _line(axes: Axes, c: Comparison, values: NDArray[Any], colour: str = COLOURS[0]) -> None:
    dates = _dates(c.snapshot)
    axes.plot(dates, values, color=colour, lw=1.2, marker="o", markersize=2)
    axes.plot(dates[c.current], values[c.current], color=COLOURS[1], lw=1.2, marker="o", markersize=2.4)
    axes.set_ylim(0, 1.2 * np.nanmax(values, initial=1e-3))
    axes.tick_params(axis="x", rotation=30)


def _dates(days: Profile) -> NDArray[np.datetime64]:
    return days.days.astype("datetime64[D]")


def _span(facts: dict[str, Any]) -> str:
    return f"{facts['first_day']} to {facts['last_day']}"


def _extent(days: list[str]) -> str:
    return f"{days[0]} to {days[-1]} ({len(days)} days)" if days else "nothing"
