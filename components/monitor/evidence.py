"""Everything that monitoring measures, from prediction log, labels and lake. The rules read nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.monitor.agreement import Agreement, agreement, matrix
from components.monitor.config import MonitorConfig
from components.monitor.reference import Reference, references
from millrace.events.prediction import REVIEW, feed_column, feed_name
from millrace.fields import Label
from millrace.installed import Workload
from millrace.instants import date_of
from millrace.judge import volume
from millrace.judge.bootstrap import Interval
from millrace.judge.expectation import calibrate, expected
from millrace.judge.outcomes import Stretch, as_numbers, complete_days, day_of, stretch
from millrace.judge.rows import event_us
from millrace.judge.sequential import Evidence, watch
from millrace.judge.yardsticks import Ranks, yardstick_of

SERVING_SHARE = 0.02
"""A version with at least this part of the last day's answers serves."""
WEEK = 7


@dataclass(frozen=True, slots=True)
class Feed:
    """What came in lately. Shares are None where nothing came."""

    answers: int
    newest_event: str
    minutes_since_event: float | None
    degraded_share: float | None
    missing_feature_share: float | None
    p99_ms: float | None
    silences: list[volume.Silence] | None
    """None with less than three days of past: nothing is usual yet."""
    days_without_labels: list[str]
    """Their labels are due, and too few are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What the verdict and the report are made from."""

    as_of: datetime
    workload: Workload
    feed: Feed
    days: list[Stretch]
    weeks: dict[str, Stretch]
    """Version → its last judged week."""
    serving: list[str]
    references: Mapping[str, Reference]
    loss: dict[str, list[Evidence]]
    estimates: list[tuple[date, str, dict[str, Interval]]]
    """Days without labels: what figures should turn out to be. Empty where the task has no such estimate."""
    agreement: Agreement | None
    reliability: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def alarm_day(self, version: str, limit: float) -> date | None:
        """The first day on which the evidence reached the limit."""
        return next((item.day for item in self.loss.get(version, []) if item.value >= limit), None)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON; a figure that does not exist is null."""
        return {
            "as_of": self.as_of.isoformat(),
            "feed": asdict(self.feed),
            "days": [day.to_dict() for day in self.days],
            "last_week": {version: week.to_dict() for version, week in self.weeks.items()},
            "serving": self.serving,
            "references": {
                version: {"source": r.source, "figures": {n: as_numbers(f) for n, f in r.figures.items()}}
                for version, r in self.references.items()
            },
            "loss": {
                version: [asdict(item) | {"day": str(item.day)} for item in items]
                for version, items in self.loss.items()
            },
            "estimates": [
                {"day": str(day), "model_version": version, **{n: as_numbers(f) for n, f in figures.items()}}
                for day, version, figures in self.estimates
            ],
            "agreement": self.agreement.to_dict() if self.agreement else None,
            "reliability": self.reliability,
        }


def gather(
    rows: pa.Table, latest: pa.Table, as_of: datetime, lake: Path, workload: Workload, config: MonitorConfig, k: int
) -> Watched:
    """Measure everything.

    `rows`: the window's answers with the labels known at `as_of`; `latest`: those of the last days, with features.
    """
    yardstick = yardstick_of(workload, k, config.review_cost)
    done = complete_days(rows, as_of, config.min_label_share, workload.schema.LABEL).tolist()
    groups = _by_day_and_version(rows)
    versions = list(dict.fromkeys(version for _, version in groups))
    known = references(versions, rows, done, lake, workload, yardstick, config)

    days = [
        stretch(part, v, yardstick, complete=day in done, resamples=config.resamples)
        for (day, v), part in groups.items()
    ]
    parts = {v: _of(rows, v, done) for v in versions}
    by_version = {v: part for v, part in parts.items() if len(part)}
    last = {v: _last_days(part, WEEK) for v, part in by_version.items()}
    curves = {v: yardstick.reliability(yardstick.sample(week)) for v, week in last.items()}

    return Watched(
        as_of=as_of,
        workload=workload,
        feed=_feed(rows, latest, as_of, workload, config.min_label_share),
        days=days,
        weeks={v: stretch(w, v, yardstick, complete=True, resamples=config.resamples) for v, w in last.items()},
        serving=_serving(rows),
        references=known,
        loss={
            v: list(watch(yardstick.losses(yardstick.sample(by_version[v]), known[v].baseline), known[v].baseline))
            for v in known
            if v in by_version
        },
        estimates=_estimates(groups, done, known, yardstick, config) if isinstance(yardstick, Ranks) else [],
        agreement=agreement(latest, lake, workload, config.agreement_sample, config.agreement_tolerance),
        reliability={v: curve for v, curve in curves.items() if curve},
    )


def _by_day_and_version(rows: pa.Table) -> dict[tuple[int, str], pa.Table]:
    day, version = day_of(rows), np.array(pc.fill_null(rows["model_version"], "?").to_pylist(), dtype=object)
    pairs = sorted({(int(d), str(v)) for d, v in zip(day, version, strict=True)})
    return {(d, v): rows.filter(pa.array((day == d) & (version == v))) for d, v in pairs}


def _of(rows: pa.Table, version: str, days: list[int]) -> pa.Table:
    own = rows.filter(pc.equal(pc.fill_null(rows["model_version"], "?"), version))
    return own.filter(pa.array(np.isin(day_of(own), days)))


def _last_days(rows: pa.Table, count: int) -> pa.Table:
    days = day_of(rows)
    return rows.filter(pa.array(days > days.max() - count))


def _serving(rows: pa.Table) -> list[str]:
    """Versions that answered the last day that has answers."""
    if not len(rows):
        return []
    last = _last_days(rows, 1)
    counts = pc.value_counts(pc.fill_null(last["model_version"], "?")).to_pylist()
    return sorted(str(item["values"]) for item in counts if item["counts"] >= SERVING_SHARE * len(last))


def _estimates(
    groups: dict[tuple[int, str], pa.Table],
    done: list[int],
    known: Mapping[str, Reference],
    yardstick: Ranks,
    config: MonitorConfig,
) -> list[tuple[date, str, dict[str, Interval]]]:
    """What is expected of the days after the last that is labelled."""
    learned = {version: calibrate(found.sample.rows, found.sample.answers) for version, found in known.items()}
    estimates = []
    for (day, version), part in groups.items():
        if day <= max(done, default=0) or version not in known:
            continue

        rows = yardstick.unlabelled(part)
        flagged = np.asarray(pc.equal(pc.fill_null(part["decision"], ""), REVIEW).to_numpy(zero_copy_only=False))
        found = expected(rows.rows, rows.answers, flagged, learned[version], yardstick.k, config.estimate_draws, day)
        estimates.append((date_of(day), version, found))
    return estimates


def _feed(rows: pa.Table, latest: pa.Table, as_of: datetime, workload: Workload, min_label_share: float) -> Feed:
    newest = pc.max(rows["event_timestamp"]).as_py()
    last_day = latest.filter(pc.greater_equal(latest["event_timestamp"], _at(as_of - timedelta(days=1))))
    features = matrix(last_day, len(workload.features.FEATURE_NAMES))
    latency = [value for value in last_day["latency_ms"].to_pylist() if value is not None]

    return Feed(
        answers=len(rows),
        newest_event=newest.isoformat() if newest else "",
        minutes_since_event=(as_of - newest).total_seconds() / 60 if newest else None,
        degraded_share=pc.mean(pc.fill_null(last_day["degraded"], True).cast(pa.float64())).as_py(),
        missing_feature_share=float(np.isnan(features).mean()) if len(features) else None,
        p99_ms=float(np.percentile(latency, 99)) if latency else None,
        silences=_silences(rows, as_of, workload),
        days_without_labels=_unlabelled(rows, as_of, min_label_share, workload.schema.LABEL),
    )


def _silences(rows: pa.Table, as_of: datetime, workload: Workload) -> list[volume.Silence] | None:
    """The hour before `as_of` against the whole days before its own."""
    midnight = as_of.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=as_of.hour < 1)
    midnight = midnight.replace(hour=0)
    past = rows.filter(pc.less(rows["event_timestamp"], _at(midnight)))
    if not len(past) or (days := int(np.ptp(day_of(past))) + 1) < 3:
        return None
    recent = rows.filter(pc.greater_equal(rows["event_timestamp"], _at(as_of - timedelta(hours=1))))
    usual = volume.profile(event_us(past), _watched_ids(past, workload), days, kind=feed_name(workload.name))
    return volume.silences(usual, event_us(recent), _watched_ids(recent, workload), as_of)


def _watched_ids(rows: pa.Table, workload: Workload) -> list[str]:
    column = feed_column(workload.name)
    ids: list[str] = pc.fill_null(rows[column], "").to_pylist() if column else [""] * len(rows)
    return ids


def _unlabelled(rows: pa.Table, as_of: datetime, min_share: float, label: Label) -> list[str]:
    due = complete_days(rows, as_of, 0.0, label).tolist()
    done = complete_days(rows, as_of, min_share, label).tolist()
    return [str(date_of(day)) for day in due if day not in done]


def _at(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment.astimezone(UTC), pa.timestamp("us", tz="UTC"))
