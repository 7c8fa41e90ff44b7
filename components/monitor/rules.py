"""The rules of outcome monitoring: evidence and limits in, one rule with value and limit per demand out.

Some rules say that the model has decayed, and a retraining may help; the others that the feed or the serving path is
broken, where a retraining would learn what is broken. `DECAY` tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.monitor.config import MonitorConfig
from components.monitor.evidence import Watched
from millrace.judge.bootstrap import Interval
from millrace.judge.gates import Rule
from millrace.judge.outcomes import Stretch
from millrace.workload import Task

CONCEPT_DRIFT = "concept_drift_evidence"
PRECISION_KEPT = "average_precision_kept"
ERROR_GROWTH = "error_growth"
DECAY = frozenset({CONCEPT_DRIFT, PRECISION_KEPT, ERROR_GROWTH})
"""Families of rules whose failure asks for a retraining."""


def judge(watched: Watched, config: MonitorConfig) -> tuple[Rule, ...]:
    """Every rule. What cannot be known yet (no labelled day, no usual volume) has no rule; the report says so."""
    feed = watched.feed
    rules = [
        Rule("answers", feed.answers, ">=", config.min_answers, f"newest event {feed.newest_event or 'none'}"),
        Rule("degraded_share", feed.degraded_share, "<=", config.max_degraded_share, "last day"),
        Rule("missing_feature_share", feed.missing_feature_share, "<=", config.max_missing_feature_share, "last day"),
        Rule("days_without_labels", len(feed.days_without_labels), "<=", 0, ", ".join(feed.days_without_labels)),
    ]

    if feed.silences is not None:
        worst = feed.silences[0] if feed.silences else None
        detail = f"{worst.range}: {worst.events} of {worst.expected:.0f} in {worst.minutes} minutes" if worst else ""
        rules.append(Rule("silent_windows", len(feed.silences), "<=", 0, detail))

    if watched.agreement is not None:
        found = watched.agreement
        detail = f"{found.differing} of {found.rows} against feature set {found.feature_set} {found.worst or ''}"
        rules.append(Rule("feature_disagreement_share", found.share, "<=", config.max_disagreement_share, detail))

    for version in watched.serving:
        rules += _of_version(watched, version, config)
    return tuple(rules)


def version_of(name: str) -> str:
    """The version that a rule is about: `average_precision_kept[v2]` → `2`; empty for a rule about none."""
    return name.partition("[v")[2].removesuffix("]")


def _of_version(watched: Watched, version: str, config: MonitorConfig) -> list[Rule]:
    reference = watched.references.get(version)
    if reference is None:
        return []

    rules = []
    usual = reference.figures

    loss = watched.loss.get(version)
    if loss:
        limit = config.mean_days_between_false_alarms
        day = watched.alarm_day(version, limit)
        highest = max(item.value for item in loss)
        detail = f"reached on {day}" if day else f"over {len(loss)} judged days"
        rules.append(Rule(f"{CONCEPT_DRIFT}[v{version}]", highest, "<", limit, detail))

    week = watched.weeks.get(version)
    if week:
        of_task = _of_quantity if watched.workload.task is Task.REGRESSION else _of_class
        rules += of_task(version, week, usual, config)

    estimates = [figures["average_precision"] for _, v, figures in watched.estimates if v == version]
    if estimates:
        kept = max(item.high for item in estimates[-3:]) / usual["average_precision"].value
        limit = config.min_expected_precision_kept
        rules.append(Rule(f"expected_precision_kept[v{version}]", kept, ">=", limit, f"last estimate {estimates[-1]}"))
    return rules


def _of_class(version: str, week: Stretch, usual: Mapping[str, Interval], config: MonitorConfig) -> list[Rule]:
    """The last judged week still ranks as it did, and its scores are still probabilities."""
    precision = week.figures["average_precision"]
    error = week.figures["calibration_error"]
    return [
        Rule(
            f"{PRECISION_KEPT}[v{version}]",
            precision.high / usual["average_precision"].value,
            ">=",
            config.min_average_precision_kept,
            f"{precision} in {week.first_day} … {week.last_day}, was {usual['average_precision']}",
        ),
        Rule(
            f"calibration_error_growth[v{version}]",
            error.low - usual["calibration_error"].high,
            "<=",
            config.max_calibration_error_growth,
            f"{error}, was {usual['calibration_error']}",
        ),
    ]


def _of_quantity(version: str, week: Stretch, usual: Mapping[str, Interval], config: MonitorConfig) -> list[Rule]:
    """The last judged week's error is no larger than it was, and its intervals hold as many."""
    error = week.figures["mae"]
    rules = [
        Rule(
            f"{ERROR_GROWTH}[v{version}]",
            error.low / usual["mae"].value,
            "<=",
            config.max_error_growth,
            f"{error} in {week.first_day} … {week.last_day}, was {usual['mae']}",
        )
    ]

    if "coverage" in week.figures and "coverage" in usual:
        held = week.figures["coverage"]
        before = usual["coverage"]
        drop = before.low - held.high
        rules.append(Rule(f"coverage_drop[v{version}]", drop, "<=", config.max_coverage_drop, f"{held}, was {before}"))
    return rules
