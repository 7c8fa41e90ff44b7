"""The drill on one page: what was planted, when it was noticed, what followed, and what noticing cost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from drill.story import Story
from millrace.report.page import BAD, COLOURS, GOOD, MUTED, Page, figure, legend
from millrace.workload import Task

MARKS = {
    "alarm": ("v", BAD),
    "alarm_lasts": (".", BAD),
    "recovered": ("P", GOOD),
    "silence": ("s", COLOURS[1]),
    "warning": (".", MUTED),
    "retraining": ("o", COLOURS[0]),
    "canary": ("^", COLOURS[3]),
    "promoted": ("*", GOOD),
    "rolled_back": ("X", BAD),
    "chaos": ("x", COLOURS[4]),
}


def write(path: Path, story: Story, document: dict[str, Any]) -> None:
    """One HTML page at `path`."""
    script = story.script
    page = Page(
        "The drill", f"{script.days} days from {script.start}, {document['events']:,} {story.workload.event[1]}"
    )
    page.facts({name.replace("_", " "): value for name, value in document.items()})
    page.heading("What happened", "Every mark is one event on the simulated clock; planted troubles are shaded.")
    page.figures(_timeline(story))
    page.figures(_quality(story))
    page.heading("Noticed", "When the trouble began, and when somebody knew.")
    page.table(["trouble", "began on day", "noticed"], _noticed(story, document))
    page.heading("In order")
    rows = [[f"{m.day:.2f}", m.what.replace("_", " "), m.detail[:220]] for m in story.moments if m.what != "day"]
    page.table(["day", "what", "detail"], rows)
    page.write(path)


def _noticed(story: Story, document: dict[str, Any]) -> list[list[Any]]:
    script, drill = story.script, story.workload.drill

    def told(value: Any, unit: str) -> str:
        return "not noticed" if value is None else f"after {value:,} {unit}"

    return [
        [
            f"{drill.SHIFT} ({script.shift_pct:+g} %)",
            script.shift_day,
            told(document["covariate_shift_noticed_after_requests"], "requests"),
        ],
        [
            f"no events for {script.outage_hours} h",
            script.outage_day,
            told(document["feed_outage_noticed_after_minutes"], "minutes"),
        ],
        [
            drill.PATTERN,
            script.pattern_day,
            told(document["new_pattern_noticed_after_days_of_labels"], "days of labels"),
        ],
    ]


def _timeline(story: Story) -> tuple[Figure, str]:
    script = story.script
    plot, axes = figure(f"{script.days} days", "day", "", width=9.6, height=3.3)
    axes.axvspan(script.shift_day, script.days, color=COLOURS[0], alpha=0.06)
    axes.axvspan(script.pattern_day, script.days, color=COLOURS[1], alpha=0.10)
    axes.axvspan(script.outage_day, script.outage_day + 1, color=MUTED, alpha=0.3)
    kinds = list(MARKS)
    for place, kind in enumerate(kinds):
        marker, colour = MARKS[kind]
        days = [m.day for m in story.moments if m.what == kind]
        axes.plot(days, [place] * len(days), marker, color=colour, ms=6, ls="")
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    axes.set_xlim(0, script.days)
    axes.set_ylim(-0.7, len(kinds) - 0.3)
    return plot, f"Blue: {story.workload.drill.SHIFT}. Orange: the new pattern. Grey: the outage."


def _quality(story: Story) -> tuple[Figure, str]:
    name = story.quality[0]["name"] if story.quality else "quality"
    words = name.replace("_", " ")
    plot, axes = figure(
        f"{words.capitalize() if ' ' in words else words.upper()} by day", "day", "", width=9.6, height=3.0
    )
    for place, version in enumerate(dict.fromkeys(item["model_version"] for item in story.quality)):
        points = [item for item in story.quality if item["model_version"] == version and item["value"] is not None]
        days = [story.script.day_of(_midnight(item["first_day"])) for item in points]
        axes.plot(days, [p["value"] for p in points], color=COLOURS[place % len(COLOURS)], marker="o", ms=2.5,
                  label=f"version {version}")  # fmt: skip
    axes.set_xlim(0, story.script.days)
    if story.workload.task is not Task.REGRESSION:
        axes.set_ylim(0, 1.03)
    if story.quality:
        legend(axes, loc="lower left")
    delay_days = story.workload.schema.LABEL.delay_days
    known = f"labels come {delay_days} days later" if delay_days else "labels are known by the end of it"
    return plot, f"By day of the {story.workload.event[1]}; {known}."


def _midnight(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)
