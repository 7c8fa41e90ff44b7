"""What the drill comes to: the moments of a story in, a flat document out, and files for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from drill.moments import Moment
from drill.story import Story
from drill.world import seconds_of
from millrace.lake.atomic import write_text


def figures(story: Story) -> dict[str, Any]:
    """The flat document of the drill; a thing that was not noticed is null."""
    script, moments = story.script, story.moments
    raised = [m for m in moments if m.what in ("alarm", "silence") and not m.facts.get("planted")]
    false = [m for m in raised if m.day <= script.shift_day]
    shift = [m for m in raised if m.facts.get("source") == "drift" and m.day > script.shift_day and _of_shift(m, story)]
    outcome = [m for m in raised if m.facts.get("source") == "outcome" and m.day > script.pattern_day]
    silence = [m for m in moments if m.what == "silence" and m.facts.get("planted")]
    after_labels = script.day_of(script.first_labels(story.workload.schema.LABEL.delay_days))
    concept = [m for m in outcome if m.day > after_labels]
    rows, distinct = story.live.logged()
    return {
        "days": script.days,
        "events": story.live.sent,
        "false_alarms": len(false),
        "false_alarms_per_30_days": len(false) / script.shift_day * 30,
        "covariate_shift_noticed_after_requests": _rows_since_shift(story, shift[0]) if shift else None,
        "new_pattern_noticed_after_days_of_labels": round(concept[0].day - after_labels, 2) if concept else None,
        "feed_outage_noticed_after_minutes": silence[0].facts["minutes"] if silence else None,
        **_takeover(moments),
        "retrainings": sum(m.what == "retraining" for m in moments),
        "retrainings_declined": sum(m.facts.get("outcome") == "declined" for m in moments),
        "log_rows": rows,
        "log_events": distinct,
        "counted_twice": rows - distinct,
        "lost": story.live.sent - distinct,
        "detector_rows": story.live.watched(),
        "kills": sum(m.what == "chaos" for m in moments),
        **{f"seconds_{name}": round(seconds, 1) for name, seconds in sorted(story.spent.items())},
    }


def _of_shift(moment: Moment, story: Story) -> bool:
    shifted = story.workload.drill.SHIFTED
    return any(shifted in name for name in moment.facts["features"]) or moment.facts["kind"] == "joint"


def _rows_since_shift(story: Story, moment: Moment) -> int:
    """Events sent from the shift to the last one in the window that raised the alarm."""
    until = datetime.fromisoformat(moment.facts["last_event"]).timestamp()
    first = story.script.instant(story.script.shift_day).timestamp()
    count = 0
    for rows in story.delivered.values():
        at = seconds_of(rows)
        count += int(((at >= first) & (at <= until)).sum())
    return count


def _takeover(moments: list[Moment]) -> dict[str, Any]:
    """From the alarm that led to a canary to that canary, by the clock; and when new models took over."""
    start = next((m for m in moments if m.what == "canary"), None)
    asked = next((m for m in moments if m.what == "retraining" and m.facts["outcome"] == "promoted"), None)
    took = None
    if start is not None and asked is not None:
        began, came = (datetime.fromisoformat(text) for text in (start.facts["began"], asked.facts["came_at"]))
        took = round((began - came).total_seconds(), 1)
    promoted = [m for m in moments if m.what == "promoted"]
    return {
        "alarm_to_canary_s": took,
        "first_canary_day": start.day if start else None,
        "first_promoted_day": promoted[0].day if promoted else None,
        "canaries_promoted": len(promoted),
        "canaries_rolled_back": sum(m.what == "rolled_back" for m in moments),
    }


def write(story: Story, seconds: float, page: Callable[..., None]) -> dict[str, Any]:
    """`<home>/bench/drill.json`, the moments beside it, and the page; returns the figures."""
    document = figures(story) | {"seconds": round(seconds, 1)}
    folder = story.settings.home / "bench"
    write_text(folder / "drill.json", json.dumps(document, indent=2) + "\n")
    told = [asdict(m) for m in story.moments if m.what != "day"]
    write_text(folder / "drill_moments.json", json.dumps(told, indent=2, default=str) + "\n")
    page(story.settings.reports / "drill.html", story, document)
    return document
