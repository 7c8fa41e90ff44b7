"""Day after day: traffic, labels, monitoring, alarms, retrainings, canaries; and when each was noticed.

The simulated clock stands still while a retraining runs; everything else happens on it. What happened is a list of
`Moment`s, of which `figures.py` makes the figures; looks at the feed's volume are `feed.py`'s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.build_features.core import build_features
from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from components.materialize.core import materialize, sources_of
from components.materialize.renewal import renew, renewable
from components.materialize.store import Aside
from components.monitor.announce import TYPE, event_of
from components.monitor.config import MonitorConfig
from components.monitor.core import monitor
from components.monitor.episodes import BEGAN, ENDED, LASTS
from drill import feed
from drill.live import TRIGGER, Live
from drill.world import Script, by_refresh, seconds_of
from millrace.errors import AlreadyRunning, Unavailable
from millrace.installed import Workload, load
from millrace.instants import start_of
from millrace.lake.atomic import replacing_file
from millrace.lake.manifest import Manifest
from millrace.observe.progress import log
from millrace.registry.models import Registry
from millrace.settings import Settings

STEP_MIN: Final = 2
"""Simulated minutes between two looks at the feed's volume during the outage."""
RETRAINING_PATIENCE_S: Final = 1800.0
DAY: Final = timedelta(days=1)
OUTCOME_KINDS: Final = {BEGAN: "alarm", LASTS: "alarm_lasts", ENDED: "recovered"}
"""What a report says of an episode of decay → what the drill calls it; all else that fails is a warning."""
CANARY_KINDS: Final = {
    "canary_started": "canary",
    "canary_advance": "canary",
    "canary_promote": "promoted",
    "canary_roll_back": "rolled_back",
}
"""Actions of the audit log that move traffic → what the drill calls them."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened."""

    day: float
    """Of the drill, with its fraction."""
    what: str
    """alarm, alarm_lasts, recovered, warning, silence, retraining, canary, promoted, rolled_back, chaos, day."""
    detail: str
    wall: float
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Story:
    """The drill at work; resumable by nobody: it is one run."""

    script: Script
    live: Live
    settings: Settings
    raw: Path
    config: MonitorConfig
    chaos: dict[int, tuple[str, ...]]
    moments: list[Moment] = field(default_factory=list)
    delivered: dict[int, pa.Table] = field(default_factory=dict)
    known_alarms: set[str] = field(default_factory=set)
    features: Manifest | None = None
    """The newest feature set that was asked for."""
    lake: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="lake"))
    building: Future[Manifest] | None = None
    """The feature set of the day that has begun, while its first events are sent."""
    spent: dict[str, float] = field(default_factory=dict)
    """Wall seconds by what was waited for."""
    filled: datetime | None = None
    """The online store holds states as of then, and what came since."""
    filled_from: Manifest | None = None
    """The feature set behind it; it knows the refreshed states of the whole day."""
    aside: Aside = field(init=False)
    renewals: Aside = field(init=False)
    preparing: tuple[datetime, Future[Manifest]] | None = None
    """The states of the next midnight, put together while the day before it is sent."""
    audited: int = 0
    """Records of the audit log that have been looked at."""
    jobs: int = 0
    quality: list[dict[str, Any]] = field(default_factory=list)
    """The first figure of each judged day and version, with its name."""

    def __post_init__(self) -> None:
        self.aside = Aside(self.settings.home, self.workload)
        self.renewals = Aside(self.settings.home, self.workload)

    @property
    def workload(self) -> Workload:
        return load(self.settings.workload)

    def close(self) -> None:
        """Wait for what the threads do, and tidy up."""
        self.lake.shutdown(cancel_futures=True)
        self.aside.close()
        self.renewals.close()

    def run(self, day: int, rows: pa.Table) -> None:
        """One simulated day."""
        began = time.perf_counter()
        self._deliver(day, rows)
        self.building = self.lake.submit(self._build)
        known = day - max(self.workload.schema.LABEL.delay_days, 1)
        if known in self.delivered:
            self.live.label(self.delivered[known])
        self._traffic(day, rows)
        self.delivered[day] = rows
        with self._timed("log"):
            self.live.wait_logged()
        with self._timed("feed"):
            if day != self.script.outage_day:
                self._look_back(day)
        with self._timed("monitoring"):
            self._monitor(day)
        with self._timed("detector"):
            self._hear_detector(day)
        with self._timed("retraining"):
            self._wait_for_trigger(day)
        self._see_canary(day)
        took = round(time.perf_counter() - began, 1)
        log("drill day", day=day, rows=len(rows), sent=self.live.sent, seconds=took)

    def _traffic(self, day: int, rows: pa.Table) -> None:
        if day in self.chaos:
            self._send(rows.slice(0, len(rows) // 2))
            killed = self.live.kill(self.chaos[day])
            self._note(day + 0.5, "chaos", f"kill -9: {', '.join(killed) or 'nothing'}")
            self._send(rows.slice(len(rows) // 2))
        elif day == self.script.outage_day:
            self._outage(day, rows)
        else:
            self._send(rows)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[what] = self.spent.get(what, 0.0) + time.perf_counter() - began

    def _build(self) -> Manifest:
        """The lake up to the end of the day that begins: `_fill` takes of it what was before its instant, no more."""
        here = self.settings
        options = IngestConfig(
            workload=here.workload,
            pseudonym_key=here.pseudonym_secret(),
            memory_limit_gb=here.memory_limit_gb,
            threads=here.threads,
        )
        deadline = time.monotonic() + RETRAINING_PATIENCE_S
        while True:
            try:
                snapshot = ingest(str(self.raw), here.lake, options)
                return build_features(snapshot, here.lake, history_length=here.history_length, **self._limits)
            except AlreadyRunning:  # a retraining that an alarm of this morning began is at the same
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _fill(self, at: datetime) -> None:
        """As pipeline and refresh job do: a fill at midnight, once all that was sent has settled; then renewals."""
        if at == self.filled:
            return
        if at != start_of(at.date()) and self._renewed(at):
            self.filled = at
            return
        with self._timed("log"):
            self.live.wait_logged()
        with self._timed("lake"):
            features = self._prepared(at)
        with self._timed("store"):
            materialize(features, self.settings.lake, self.settings.home, at, aside=self.aside, **self._limits)
        self.filled, self.filled_from = at, features
        following = start_of(at.date() + DAY)
        self.preparing = following, self.lake.submit(self._prepare, following)

    def _renewed(self, at: datetime) -> bool:
        """Whether refreshed states were all that the store lacked; a retraining may have filled it otherwise."""
        lake, home, known = self.settings.lake, self.settings.home, self.filled_from
        if known is None or not renewable(known, lake, home, at):
            return False
        with self._timed("store"):
            renew(known, lake, home, at, aside=self.renewals)
        return True

    def _prepared(self, at: datetime) -> Manifest:
        """The feature set that `at` is filled from, its states being aside."""
        if self.preparing is None or self.preparing[0] != at:
            self.preparing = at, self.lake.submit(self._prepare, at)
        return self.preparing[1].result()

    def _prepare(self, at: datetime) -> Manifest:
        """In the lake's thread."""
        features = self._features(at)
        self.aside.write(sources_of(features, self.settings.lake, at, **self._limits).folder)
        return features

    @property
    def _limits(self) -> dict[str, Any]:
        return {"threads": self.settings.threads, "memory_limit_gb": self.settings.memory_limit_gb}

    def _features(self, at: datetime) -> Manifest:
        """One that reaches to `at`: at midnight that of the day before does, while the new one is being made."""
        known = self.features
        reaches = known is not None and at <= start_of(date.fromisoformat(known.facts["last_day"][:10]) + DAY)
        if known is None or not reaches:
            assert self.building is not None
            self.features = known = self.building.result()
        return known

    def _deliver(self, day: int, rows: pa.Table) -> None:
        """The day's file, as the next ingest finds it."""
        with replacing_file(self.raw / f"{self.script.date(day)}.parquet") as aside:
            pq.write_table(rows.replace_schema_metadata(), aside)

    def _send(self, rows: pa.Table) -> None:
        """In order; at every refresh of states on the way the store is filled first, or it would be stale."""
        for at, part in by_refresh(rows, self.workload.features.REFRESHES_PER_DAY):
            self._fill(at)
            with self._timed("traffic"):
                self.live.send(part)
        self._see_canary_between()

    def _see_canary_between(self) -> None:
        """From the audit log: the served manifest forgets its canary when the registry publishes the new champion."""
        history = Registry(self.settings).history()
        day = max(self.moments[-1].day if self.moments else 0.0, float(len(self.delivered)))
        for record in history[self.audited :]:
            if (kind := CANARY_KINDS.get(record["action"])) is None:
                continue
            facts = {"version": record["canary_version"], "percent": record["percent"], "began": record["at"]}
            detail = f"version {record['canary_version']} at {record['percent']} %: {record['reason']}"
            self._note(day, kind, detail, **facts)
        self.audited = len(history)

    def _see_canary(self, day: int) -> None:
        self._note(day + 1, "day", "")
        self._see_canary_between()

    def _outage(self, day: int, rows: pa.Table) -> None:
        """Until the outage, the log's own watch of the feed every STEP_MIN minutes of it, and what comes after it."""
        script, at = self.script, seconds_of(rows)
        begin = script.instant(day, script.outage_hour)
        self._send(rows.filter(pa.array(at < begin.timestamp())))
        self.live.wait_logged()
        for minute in range(STEP_MIN, script.outage_hours * 60 + 1, STEP_MIN):
            now = begin + timedelta(minutes=minute)
            if found := feed.live_look(self.live, now):
                self._note(script.day_of(now), "silence", feed.words(found[0]), minutes=minute, planted=True)
                break
        self._send(rows.filter(pa.array(at >= begin.timestamp())))

    def _look_back(self, day: int) -> None:
        """The looks of a day whose feed was whole: the first that finds a silence is noted."""
        if day >= feed.LEAST_DAYS and (found := feed.first_silence(self.settings, self.script, day)):
            now, silence = found
            self._note(self.script.day_of(now), "silence", feed.words(silence), planted=False)

    def _monitor(self, day: int) -> None:
        """The nightly monitoring, and its alarm to the trigger."""
        as_of = self.script.instant(day + 1)
        report = monitor(self.settings, as_of, self.config, page=False)
        self._remember_quality(day, report.path("report.json"))
        facts = report.facts
        if facts["passed"] and facts["episode"] != ENDED:
            return
        answer = self._tell(event_of(report)) if facts["retrain"] or facts["episode"] == ENDED else ""
        kind = OUTCOME_KINDS.get(facts["episode"], "warning")
        detail = f"outcomes: {', '.join(facts['failed']) or 'as they should be again'}"
        self._note(day + 1, kind, detail, source="outcome", reason=facts["reason"], answer=answer)

    def _tell(self, event: dict[str, Any]) -> str:
        assert event["type"] == TYPE
        body = [event]
        request = json.dumps(body).encode()
        said = self.live.post_events(TRIGGER, request)
        return str(said["requests"][0]["answer"])

    def _remember_quality(self, day: int, path: Path) -> None:
        document = json.loads(path.read_text())
        known = {(item["first_day"], item["model_version"]) for item in self.quality}
        for item in document["days"]:
            if (
                item["complete"]
                and (item["first_day"], item["model_version"]) not in known
                and item.get("positives", 1)
            ):
                name, figure = next(iter(item["figures"].items()))
                self.quality.append({k: item[k] for k in ("first_day", "model_version")} | figure | {"name": name})
        log("drill outcome", day=day, passed=document["passed"])

    def _hear_detector(self, day: int) -> None:
        """Alarms of the drift detector that are new, at their event time."""
        deadline = time.monotonic() + RETRAINING_PATIENCE_S
        while self.live.get(self.live.detector, "/v1/drift")["waiting"] and time.monotonic() < deadline:
            time.sleep(0.1)
        for alarm in self.live.get(self.live.detector, "/v1/alarms"):
            if alarm["id"] in self.known_alarms:
                continue
            self.known_alarms.add(alarm["id"])
            at = datetime.fromisoformat(alarm["last_event"])
            detail = f"drift: {alarm['reason']}"
            facts = {"source": "drift", "features": list(alarm["features"]), "kind": alarm["kind"]}
            self._note(self.script.day_of(at), "alarm", detail, **facts, last_event=alarm["last_event"], heard=day + 1)

    def _wait_for_trigger(self, day: int) -> None:
        """The clock stands still until no retraining waits or runs; what came of it is noted."""
        deadline = time.monotonic() + RETRAINING_PATIENCE_S
        while (status := self.live.get(TRIGGER, "/v1/status"))["waiting"] or status["running"]:
            if time.monotonic() > deadline:
                raise Unavailable(f"the retraining did not end in {RETRAINING_PATIENCE_S:g} s: {status['running']}")
            time.sleep(0.3)
        for job in status["history"][self.jobs :]:
            began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "ended_at"))
            facts = {name: job[name] for name in ("outcome", "asked_by", "came_at")}
            facts["seconds"] = (ended - began).total_seconds()
            self._note(day + 1, "retraining", f"{job['outcome']}: {job['detail'][:300]}", **facts, reason=job["reason"])
        self.jobs = len(status["history"])

    def _note(self, day: float, what: str, detail: str, **facts: Any) -> None:
        if what != "day":
            log("drill", day=round(day, 2), what=what, detail=detail[:160])
        self.moments.append(Moment(day, what, detail, time.time(), facts))
