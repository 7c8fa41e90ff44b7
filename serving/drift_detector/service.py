"""The detector at work: scored rows → windows of each model version → judgements, metrics and alarms.

Every model version has a watch of its own, so a new version is compared with its own reference from its first request
on. Where rows come from, and when the state is saved, is `consumer.py`'s.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from millrace.errors import InvalidInput, MillraceError
from millrace.observe import telemetry
from millrace.observe.progress import log
from serving.drift_detector.backends import Backend
from serving.drift_detector.core import Detector, DriftConfig, fit
from serving.drift_detector.events import Scored
from serving.drift_detector.judgement import KINDS, Judgement, Window
from serving.drift_detector.online import Online, online_of
from serving.drift_detector.references import ModelStore
from serving.drift_detector.settings import DriftSettings
from serving.drift_detector.store import Store
from serving.drift_detector.watch import Judged, Outcome, Watch, WatchConfig
from serving.drift_detector.windows import Rows

VERSIONS: Final = 4
"""Model versions watched at a time (stable, canary, one to roll back to); the one longest unseen is let go."""
HISTORY: Final = 1_000
"""Judgements kept for the report."""
ALARMS: Final = 500


class DriftService:
    """State of one detector process. One thread takes rows and saves; other threads read what it found, and judge."""

    def __init__(self, settings: DriftSettings, folder: Path, models: ModelStore, backend: Backend) -> None:
        self.settings, self.models, self.backend = settings, models, backend
        self.unsaved = 0
        """Rows taken since the state was saved."""
        self.untold: list[dict[str, Any]] = []
        """Alarms that nobody has been told of; they are told before the state that holds them is saved."""
        self._arms = frozenset(part.strip() for part in settings.arms.split(","))
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._alarms: deque[dict[str, Any]] = deque(maxlen=ALARMS)
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._watches: OrderedDict[str, Watch] = OrderedDict()
        self._detectors: OrderedDict[str, Detector] = OrderedDict()
        self._online: dict[str, Online] = {}
        self._store = Store(folder)
        # Judging for the stream and for `:predict` takes turns: detectors are not for several threads.
        self._judging = threading.RLock()
        self._showing = threading.Lock()

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """Newest last."""
        with self._showing:
            return list(self._alarms)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The last judgements, newest last."""
        with self._showing:
            return list(self._history)

    def require(self, row: Scored) -> None:
        """Raise InvalidInput for a row that is watched and whose model version is not there."""
        if row.arm in self._arms:
            self.models.require(row.model_version)

    def take(self, rows: Sequence[Scored], others: int = 0) -> dict[str, int]:
        """Judge what the rows complete, each id once; what became of them. `others`: events of other models."""
        fresh: dict[str, Scored] = {}
        ignored = others
        for row in rows:
            if row.arm not in self._arms:
                ignored += 1
            elif row.id not in self._ids:
                fresh.setdefault(row.id, row)
        counts = {"accepted": len(fresh), "duplicate": len(rows) + others - ignored - len(fresh), "ignored": ignored}
        for outcome, count in counts.items():
            telemetry.DRIFT_EVENTS.labels(outcome).inc(count)

        if fresh:
            new = list(fresh.values())
            self._finish(new, self._judged(new))
            self._ids |= dict.fromkeys(fresh)
            while len(self._ids) > self.settings.event_ids:
                self._ids.popitem(last=False)
        return counts

    def restore(self) -> None:
        """Go on where the last process saved its state; the stream hands out again what came after."""
        found = self._store.read()
        if found is not None:
            document, arrays = found
            self._ids = OrderedDict.fromkeys(document["ids"])
            self._alarms.extend(document["alarms"])
            self._history.extend(document["history"])
            for version, state in document["watches"].items():
                self._restore_watch(version, state, arrays)
        log("drift_restored", versions=list(self._watches), alarms=len(self._alarms))

    def save(self) -> None:
        """Write the state; durable when it returns, and then what was taken may be acknowledged."""
        watches: dict[str, Any] = {}
        arrays: dict[str, Any] = {}
        for version, watch in self._watches.items():
            watches[version], own = watch.arrays()
            arrays |= {f"{version}/{name}": array for name, array in own.items()}
        document = {
            "ids": list(self._ids),
            "alarms": list(self._alarms),
            "history": list(self._history),
            "watches": watches,
        }
        self._store.save(document, arrays)
        self.unsaved = 0

    def _judged(self, rows: Sequence[Scored]) -> Outcome:
        """What judging the windows that `rows` complete found."""
        outcome = Outcome()
        with self._judging:
            for version in dict.fromkeys(row.model_version for row in rows):
                try:
                    self._judge(version, [row for row in rows if row.model_version == version], outcome)
                except Exception as error:  # noqa: BLE001 - one version's fault must not stop the others
                    log("drift_not_judged", version=version, error=repr(error), traceback=traceback.format_exc())
        return outcome

    def judge(self, window: Window, version: str | None = None) -> Judgement:
        """Judge a window given in a request; it leaves no trace. Raises InvalidInput."""
        with self._judging:
            return self.detector(version or self.current_version()).judge(window)

    def detector(self, version: str) -> Detector:
        """Fitted once per version and kept for the last few. Raises InvalidInput."""
        if version not in self._detectors:
            started = time.perf_counter()
            config = DriftConfig(level=self.settings.level)
            self._detectors[version] = fit(self.models.reference(version), self.backend, config)
            log("drift_reference", version=version, seconds=round(time.perf_counter() - started, 2))
        self._detectors.move_to_end(version)
        while len(self._detectors) > VERSIONS:
            self._detectors.popitem(last=False)
        return self._detectors[version]

    def current_version(self) -> str:
        """The version seen last; before any event, the newest in the store."""
        known = [*self.models.versions()[-1:], *self._watches]
        if not known:
            raise InvalidInput(f"no model version in {self.models.folder}; promote a model first")
        return known[-1]

    def _judge(self, version: str, rows: list[Scored], outcome: Outcome) -> None:
        if version not in self._watches:
            self._watches[version] = Watch(self.detector(version), self._watch_config())
        self._watches.move_to_end(version)
        while len(self._watches) > VERSIONS:
            self._watches.popitem(last=False)
        # A degraded answer was made from defaults: its features are not the world's. Its share has an alert of its own.
        whole = [row for row in rows if not row.degraded]
        if whole:
            started = time.perf_counter()
            found = self._watches[version].add(_rows(whole))
            outcome.judged += found.judged
            outcome.alarms += found.alarms
            if self.settings.online:
                self._follow(version, whole)
            for _ in found.judged:
                telemetry.DRIFT_JUDGE_SECONDS.observe((time.perf_counter() - started) / len(found.judged))

    def _follow(self, version: str, rows: list[Scored]) -> None:
        detector = self.detector(version)
        if version not in self._online:
            run_length = self.settings.online_expected_run_length
            self._online = {version: online_of(self.backend.name, detector.per_request(), run_length)}
        values = detector.per_request(_rows(rows).table)
        signals = self._online[version].add(values[np.isfinite(values).all(axis=1)])
        telemetry.DRIFT_ONLINE_SIGNALS.inc(signals)

    def _watch_config(self) -> WatchConfig:
        chosen = self.settings
        return WatchConfig(
            window_rows=chosen.window_rows, hop_rows=min(chosen.hop_rows, chosen.window_rows), period_s=chosen.period_s
        )

    def _restore_watch(self, version: str, state: dict[str, Any], arrays: dict[str, Any]) -> None:
        try:
            watch = Watch(self.detector(version), self._watch_config())
        except MillraceError as error:  # a version that is no longer in the store
            log("drift_version_gone", version=version, error=str(error))
            return
        own = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{version}/")}
        watch.restore(state, own)
        self._watches[version] = watch

    def _finish(self, rows: Sequence[Scored], outcome: Outcome) -> None:
        self.unsaved += len(rows)
        known = {alarm["id"] for alarm in self._alarms}
        for alarm in outcome.alarms:
            if alarm.id not in known:
                # As JSON gives it back.
                said = asdict(alarm) | {"features": list(alarm.features), "model_name": self.models.model_name}
                self.untold.append(said)
                with self._showing:
                    self._alarms.append(said)
                telemetry.DRIFT_ALARMS.labels(alarm.kind).inc()
                log("drift_alarm", kind=alarm.kind, reason=alarm.reason, version=alarm.model_version)
        for judged in outcome.judged:
            with self._showing:
                self._history.append(_summary(judged))
            telemetry.DRIFT_WINDOWS.labels(judged.window).inc()
            telemetry.DRIFT_OUTLIERS.inc(len(judged.judgement.outliers) if judged.window == "count" else 0)
            _show(judged.judgement)
        open_kinds = set().union(*(watch.open_kinds() for watch in self._watches.values()))
        for kind in KINDS:
            telemetry.DRIFT_DETECTED.labels(kind).set(kind in open_kinds)
        telemetry.DRIFT_LAST_EVENT.set(rows[-1].event_us / 1e6)


def _rows(scored: Sequence[Scored]) -> Rows:
    table = np.array([(*row.features, row.score, row.review) for row in scored], np.float32)
    return Rows(np.array([row.event_us for row in scored], np.int64), table)


def _summary(judged: Judged) -> dict[str, Any]:
    """What the report shows of a judgement."""
    found = judged.judgement
    return {
        "window": judged.window,
        "number": judged.number,
        "first_event": judged.first_event,
        "last_event": judged.last_event,
        "model_version": found.model_version,
        "rows": found.rows,
        "p_value": {item.name: item.p_value for item in found.comparisons},
        "statistic": {item.name: item.statistic for item in found.comparisons},
        "joint_p_value": found.joint_p_value,
        "outliers": len(found.outliers),
        "findings": [asdict(finding) for finding in found.findings],
        "severity": found.severity,
    }


def _show(judgement: Judgement) -> None:
    for item in judgement.comparisons:
        if item.p_value is not None and item.statistic is not None:
            telemetry.DRIFT_P_VALUE.labels(item.name).set(item.p_value)
            telemetry.DRIFT_STATISTIC.labels(item.name).set(item.statistic)
    if judgement.joint_p_value is not None:
        telemetry.DRIFT_JOINT_P_VALUE.set(judgement.joint_p_value)
