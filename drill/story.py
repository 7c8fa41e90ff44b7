"""Day after day: traffic, labels, monitoring, alarms, retrainings, canaries; and when each was noticed.

The simulated clock stands still while a retraining runs; everything else happens on it. What happened is a list of
`Moment`s (`moments.py`), of which `figures.py` makes the figures; lake and store are `filling.py`'s, looks at the
feed's volume `feed.py`'s.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.monitor.announce import TYPE, event_of
from components.monitor.config import MonitorConfig
from components.monitor.core import monitor
from components.monitor.episodes import BEGAN, ENDED, LASTS
from drill import feed
from drill.filling import Filling
from drill.live import TRIGGER, Live
from drill.moments import RETRAINING_PATIENCE_S, Moment, Stopwatch
from drill.world import Script, by_refresh, seconds_of
from millrace.errors import Unavailable
from millrace.installed import Workload, load
from millrace.lake.atomic import replacing_file
from millrace.observe.progress import log
from millrace.registry.models import Registry
from millrace.settings import Settings

STEP_MIN: Final = 2
"""Simulated minutes between two looks at the feed's volume during the outage."""
OUTCOME_KINDS: Final = {BEGAN: "alarm", LASTS: "alarm_lasts", ENDED: "recovered"}
"""What a report says of an episode of decay → what the drill calls it; all else that fails is a warning."""
CANARY_KINDS: Final = {
    "canary_started": "canary",
    "canary_advance": "canary",
    "canary_promote": "promoted",
    "canary_roll_back": "rolled_back",
}
"""Actions of the audit log that move traffic → what the drill calls them."""


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
    watch: Stopwatch = field(default_factory=Stopwatch)
    filling: Filling = field(init=False)
    audited: int = 0
    """Records of the audit log that have been looked at."""
    jobs: int = 0
    quality: list[dict[str, Any]] = field(default_factory=list)
    """The first figure of each judged day and version, with its name."""

    def __post_init__(self) -> None:
        self.filling = Filling(self.live, self.settings, self.raw, self.watch)

    @property
    def workload(self) -> Workload:
        return load(self.settings.workload)

    @property
    def spent(self) -> dict[str, float]:
        """Wall seconds by what was waited for."""
        return self.watch.spent

    def close(self) -> None:
        """Wait for what the threads do, and tidy up."""
        self.filling.close()

    def run(self, day: int, rows: pa.Table) -> None:
        """One simulated day."""
        began = time.perf_counter()
        self._deliver(day, rows)
        self.filling.begin_day()
        delay_days = self.workload.schema.LABEL.delay_days
        if delay_days and day >= delay_days:
            self.live.label(self.delivered[day - delay_days])
        self._traffic(day, rows)
        self.delivered[day] = rows
        if not delay_days:
            self.live.label(rows)
        with self.watch.timing("log"):
            self.live.wait_logged()
            self.live.wait_labelled()
        with self.watch.timing("feed"):
            if day != self.script.outage_day:
                self._look_back(day)
        with self.watch.timing("monitoring"):
            self._monitor(day)
        with self.watch.timing("detector"):
            self._hear_detector(day)
        with self.watch.timing("retraining"):
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

    def _deliver(self, day: int, rows: pa.Table) -> None:
        """The day's file, as the next ingest finds it."""
        with replacing_file(self.raw / f"{self.script.date(day)}.parquet") as aside:
            pq.write_table(rows.replace_schema_metadata(), aside)

    def _send(self, rows: pa.Table) -> None:
        """In order; at every refresh of states on the way the store is filled first, or it would be stale."""
        for at, part in by_refresh(rows, self.workload.features.REFRESHES_PER_DAY):
            self.filling.fill(at)
            with self.watch.timing("traffic"):
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
        document = json.loads(path.read_text(encoding="utf-8"))
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
