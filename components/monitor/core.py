"""Watch the served model: prediction log and labels in; figures, verdict and page out.

`evidence.py` measures, `rules.py` holds figures against `monitor.yaml`, `page.py` writes for people, `announce.py`
tells the retraining trigger. Nothing blocks here: a verdict that failed is an alarm.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from components.monitor.config import MonitorConfig
from components.monitor.episodes import Episodes, follow, state
from components.monitor.evidence import Watched, gather
from components.monitor.rules import DECAY, judge, version_of
from millrace.errors import InvalidInput
from millrace.events.log import engine
from millrace.events.table import read_predictions
from millrace.installed import load
from millrace.judge.gates import Verdict, family
from millrace.judge.outcomes import answers, columns_of
from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest, content_id, list_manifests
from millrace.lake.provenance import code_of
from millrace.lake.step import Step
from millrace.observe.progress import log
from millrace.settings import Settings

GATE: Final = "outcomes"
LATEST_DAYS: Final = 2
"""Days whose features are read."""
NEWEST: Final = "outcomes.html"


def monitor(settings: Settings, as_of: datetime, config: MonitorConfig | None = None, *, page: bool = True) -> Manifest:
    """The outcome report of the log as it was known at `as_of`; from the lake where nothing has changed since.

    Raises Unavailable when the log cannot be read, InvalidInput for a naive `as_of`.
    """
    config = config or MonitorConfig.load()
    rows, latest = read(settings, as_of, config)
    before = _episodes_before(settings, as_of)
    identity = _identity(rows, latest, as_of, config, settings, before)
    step = Step(kind="outcome_report", id=identity, workload=settings.workload, lake=settings.lake.resolve())
    if step.found() is None:
        workload = load(settings.workload)
        watched = gather(rows, latest, as_of, settings.lake, workload, config, settings.review_capacity)
        verdict = Verdict(GATE, judge(watched, config))
        with step.writing() as draft:
            _write_files(draft.folder, watched, verdict, config, page=page)
            draft.facts |= facts_of(watched, verdict, config, settings.model_name, before)
    report = step.made()
    if page:
        write_text(settings.reports / NEWEST, report.path("report.html").read_text(encoding="utf-8"))
    log("monitor", as_of=as_of.isoformat(), passed=report.facts["passed"], failed=report.facts["failed"])
    return report


def read(settings: Settings, as_of: datetime, config: MonitorConfig) -> tuple[pa.Table, pa.Table]:
    """The window's answers with the labels known at `as_of`, and the last days' answers with their features."""
    if as_of.tzinfo is None:
        raise InvalidInput(f"as_of is {as_of}; wanted an instant with its zone, such as 2018-09-30T00:00:00Z")

    since = as_of.astimezone(UTC) - timedelta(days=config.window_days)
    database = engine(settings)
    workload = settings.workload
    columns = columns_of(workload)

    try:
        rows = read_predictions(
            database, workload, since, as_of, with_labels_known_at=as_of, columns=columns, by="event_timestamp"
        )
        wide = [*columns, "features", "feature_service"]
        lately = as_of - timedelta(days=LATEST_DAYS)
        latest = read_predictions(database, workload, lately, as_of, columns=wide, by="event_timestamp")
    finally:
        database.dispose()
    return answers(rows, workload), answers(latest, workload)


def instant_of(text: str) -> datetime:
    """An ISO 8601 instant, UTC when naive; now when empty. Raises InvalidInput."""
    if not text:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"as_of is {text!r}; wanted an ISO 8601 time such as 2018-09-30T00:00:00Z") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def facts_of(
    watched: Watched, verdict: Verdict, config: MonitorConfig, model_name: str, before: Episodes
) -> dict[str, Any]:
    """What the trigger and the pipeline's metrics need: the verdict in short, since when, and whether that is new."""
    failed = [rule.name for rule in verdict.failures]
    decayed = [name for name in failed if family(name) in DECAY]
    episodes = follow(before, map(version_of, decayed), watched.serving, watched.as_of.date())
    since = [watched.alarm_day(version, config.mean_days_between_false_alarms) for version in watched.serving]

    metrics = {
        f"{name}_v{version}": figure.value
        for version, week in watched.weeks.items()
        for name, figure in week.figures.items()
    }

    return {
        "as_of": watched.as_of.isoformat(),
        "passed": verdict.passed,
        "failed": failed,
        "retrain": bool(decayed),
        "reason": "; ".join(str(rule) for rule in verdict.failures if rule.name in decayed),
        "episodes": episodes,
        "episode": state(before, episodes),
        "alarm_day": str(min((day for day in since if day), default="")),
        "model_name": model_name,
        "model_versions": watched.serving,
        "metrics": {name: value for name, value in metrics.items() if value == value},
        "answers": watched.feed.answers,
    }


def _episodes_before(settings: Settings, as_of: datetime) -> Episodes:
    """Those that the last report before this one left open."""
    reports = [
        (datetime.fromisoformat(made.facts["as_of"]), made.facts.get("episodes", {}))
        for made in list_manifests(settings.lake / "outcome_reports", "outcome_report")
        if made.facts["model_name"] == settings.model_name
    ]
    return max((found for found in reports if found[0] < as_of), key=lambda found: found[0], default=(as_of, {}))[1]


def _identity(
    rows: pa.Table, latest: pa.Table, as_of: datetime, config: MonitorConfig, settings: Settings, before: Episodes
) -> str:
    digest = hashlib.sha256()
    for table in (rows, latest):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        digest.update(sink.getvalue())
    made_from: dict[str, Any] = {"log": digest.hexdigest(), "as_of": as_of.isoformat(), "config": config.model_dump()}
    names = {path.name for path in (settings.lake / "feature_sets").glob("*")}
    made_from |= {"feature_sets": sorted(names), "k": settings.review_capacity, "model": settings.model_name}
    made_from["episodes"] = before
    return content_id(made_from | {"code": code_of(Path(__file__).parent, *_code_of_workload(settings.workload))})


def _code_of_workload(name: str) -> list[Path]:
    return load(name).files("schema", "judging", "watch")


def _write_files(aside: Path, watched: Watched, verdict: Verdict, config: MonitorConfig, *, page: bool) -> None:
    verdict.write(aside / "verdict.json")
    document = watched.to_dict() | {"config": config.model_dump(), **verdict.to_dict()}
    (aside / "report.json").write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
    if page:
        from components.monitor import page as pages  # matplotlib: not for those who only want the figures

        pages.write(aside / "report.html", watched, verdict, config)
