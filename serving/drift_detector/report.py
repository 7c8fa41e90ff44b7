"""The drift report: p-values over windows, reference beside the last window, alarms. State in, one HTML page out.

`python -m serving.drift_detector.report`; runs in the detector's environment and in the main one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import MillraceError, NotFound
from millrace.installed import load
from millrace.report.index import link
from millrace.report.page import BAD, COLOURS, Page, figure, legend
from millrace.settings import settings
from serving.drift_detector.judgement import DECISION, SCORE, Reference
from serving.drift_detector.references import ModelStore
from serving.drift_detector.settings import drift_settings
from serving.drift_detector.store import read_state

SMALLEST: Final = 1e-12
"""p-values are drawn down to here."""


def drift_report(state: Path, models: ModelStore) -> Page:
    """The page of a detector's state file; raises NotFound where there is none."""
    found = read_state(state)
    if found is None:
        raise NotFound(f"no state of a drift detector at {state}. Start one (make up), or name its folder.")
    document, arrays = found
    history = document["history"]
    version = history[-1]["model_version"] if history else next(iter(document["watches"]), "")
    own = [item for item in history if item["model_version"] == version]
    page = Page("Drift report", f"model version {version or 'none'}, {len(own)} windows")
    page.facts(_facts(document, own))
    page.heading("Alarms", "Each episode once; newest first.")
    columns = ("raised", "kind", "severity", "version", "requests seen", "why")
    page.table(columns, [_alarm(alarm) for alarm in reversed(document["alarms"])] or [["–"] * len(columns)])
    if not own:
        return page.text("No window has been judged yet.")
    page.heading("p-values, window by window", "Chance gives a point below the line once in several hundred windows.")
    shown = (*load(models.workload).watch.PER_REQUEST, SCORE)
    page.figures(*_p_values([item for item in own if item["window"] == "count"], shown, document))
    table = arrays.get(f"{version}/count_table")
    if table is not None and len(table):
        page.heading("Reference and last window", "What the model was validated on, and what it sees now.")
        page.figures(*_histograms(models.reference(version), shown, table))
    page.heading("Last window, column by column")
    last = own[-1]
    rows = [[name, last["statistic"][name], p] for name, p in last["p_value"].items()]
    rows.sort(key=lambda row: 1.0 if row[2] is None else row[2])
    return page.table(("column", "distance", "p-value"), rows, f"{last['rows']:,} requests up to {last['last_event']}")


def _facts(document: dict[str, Any], own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "windows judged": len(own),
        "with a finding": sum(bool(item["findings"]) for item in own),
        "alarms": len(document["alarms"]),
        "first event": own[0]["first_event"] if own else None,
        "last event": own[-1]["last_event"] if own else None,
    }


def _alarm(alarm: dict[str, Any]) -> list[Any]:
    return [alarm[key] for key in ("raised_at", "kind", "severity", "model_version", "requests", "reason")]


def _p_values(
    windows: Sequence[dict[str, Any]], shown: Sequence[str], document: dict[str, Any]
) -> list[tuple[Any, str]]:
    """Two plots: what is judged for small shifts, and decisions, where there are any, with the multivariate test."""
    at = np.array([item["number"] for item in windows])
    decided = any(DECISION in item["p_value"] for item in windows)
    decisions = {"decision": [item["p_value"].get(DECISION) for item in windows]} if decided else {}
    together = {"multivariate": [item["joint_p_value"] for item in windows]}
    groups = {
        "Features and score": {name: [item["p_value"].get(name) for item in windows] for name in shown},
        "Decisions and all together" if decisions else "All together": decisions | together,
    }
    raised = [
        a["requests"] for a in document["alarms"] if windows and a["model_version"] == windows[0]["model_version"]
    ]
    plots = []
    for title, series in groups.items():
        plot, axes = figure(title, "requests seen", "p-value")
        for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
            p = np.array([np.nan if value is None else max(value, SMALLEST) for value in values])
            there = np.isfinite(p)
            axes.plot(at[there], p[there], ".-", color=colour, linewidth=0.8, markersize=3, label=name)
        for place in raised:
            axes.axvline(place, color=BAD, linewidth=0.8, linestyle="--")
        axes.set_yscale("log")
        axes.set_ylim(SMALLEST, 2)
        legend(axes, loc="lower left")
        plots.append((plot, "Dashed: an alarm was raised."))
    return plots


def _histograms(reference: Reference, shown: Sequence[str], table: NDArray[np.float32]) -> list[tuple[Any, str]]:
    plots = []
    for name in shown:
        old = reference.scores if name == SCORE else reference.features[:, reference.names.index(name)]
        new = table[:, -2] if name == SCORE else table[:, reference.names.index(name)]
        new = new[np.isfinite(new)]
        edges = np.linspace(*np.quantile(old, [0.0, 0.99]), 31)
        plot, axes = figure(name, name, "share")
        for colour, values, label in ((COLOURS[0], old, "reference"), (COLOURS[1], new, "last window")):
            weights = np.full(len(values), 1 / max(len(values), 1))
            clipped = np.clip(values, edges[0], edges[-1])
            axes.hist(clipped, edges, weights=weights, histtype="step", color=colour, label=label)
        legend(axes)
        plots.append((plot, "The last bar holds everything above the reference's 99th percentile."))
    return plots


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and say where."""
    parser = argparse.ArgumentParser(prog="python -m serving.drift_detector.report", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="default: <home>/report/<workload>/drift.html")
    parser.add_argument("--workload", default="", help="whose detector (default: MILLRACE_WORKLOAD)")
    options = parser.parse_args(arguments)
    try:
        chosen, shared = drift_settings(), settings(options.workload)
        models = ModelStore(chosen.store_of(shared), shared.model_name, shared.workload)
        page = drift_report(chosen.folder_of(shared) / "state.npz", models)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out = options.out or shared.reports / "drift.html"
    page.write(out)
    if options.out is None:
        link(shared.reports, out.name)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
