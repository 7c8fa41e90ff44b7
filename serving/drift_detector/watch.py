"""One model version under watch: rows in, judgements and alarms out; its state goes to arrays and back. No I/O.

Joins the windows (by count, by time), the detector and the episodes. A watch that is restored and fed the rest of
a stream ends where one ends that was fed all of it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.drift_detector.core import Detector
from serving.drift_detector.episodes import BY_TIME, Confirmed, Episodes
from serving.drift_detector.judgement import KINDS, Judgement, Window
from serving.drift_detector.windows import CountWindows, Rows, TimeWindows

COUNT, TIME = "count", "time"
RETRAIN_KINDS: Final = frozenset({"features", "score", "decision", "joint"})
PERIOD_ROWS: Final = 5_000
"""Rows kept of a period."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchConfig:
    window_rows: int = 1_000
    hop_rows: int = 500
    """A window is judged every so many rows."""
    period_s: float = 86_400.0
    """Event time of a window by time; 0 for none."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A judgement and which window it is of."""

    window: str
    """`count` or `time`."""
    number: int
    """Rows of this model version seen so far."""
    first_event: str
    last_event: str
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Alarm:
    """One episode of drift; its id is a hash of what and when, so that it is the same however often it is found."""

    id: str
    raised_at: str
    kind: str
    features: tuple[str, ...]
    severity: str
    reason: str
    window: str
    first_event: str
    last_event: str
    requests: int
    """Rows of this model version seen when it was raised."""
    model_version: str
    retrain: bool
    """Whether a retraining may help; what a broken feed makes, it would only learn."""


@dataclass(slots=True)
class Outcome:
    judged: list[Judged] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)


class Watch:
    """The windows and episodes of one model version."""

    def __init__(self, detector: Detector, config: WatchConfig | None = None) -> None:
        self.detector = detector
        self.config = config or WatchConfig()
        self._columns = len(detector.reference.names) + 2  # score and decision
        self._count = CountWindows(self.config.window_rows, self.config.hop_rows, self._columns)
        self._time = TimeWindows(self.config.period_s, PERIOD_ROWS, self._columns)
        self._episodes = {COUNT: Episodes(), TIME: Episodes(BY_TIME)}

    @property
    def seen(self) -> int:
        return self._count.seen

    def add(self, rows: Rows) -> Outcome:
        """Judge every window that `rows` completes."""
        outcome = Outcome()
        # Cut at hops: what is judged, and kept of a period, does not depend on how the rows were delivered.
        for start, end in self._cuts(len(rows)):
            for window in self._count.add(rows[start:end]):
                self._judge(COUNT, window, outcome)
            if self._count.seen % self.config.hop_rows == 0:
                for window in self._time.add(self._count.rows[-self.config.hop_rows :]):
                    self._judge(TIME, window, outcome)
        return outcome

    def latest(self) -> Rows:
        """The last rows, at most a window."""
        return self._count.rows

    def open_kinds(self) -> set[str]:
        return {kind for kind in KINDS if any(episodes.open(kind) for episodes in self._episodes.values())}

    def _cuts(self, rows: int) -> list[tuple[int, int]]:
        first = self.config.hop_rows - self._count.seen % self.config.hop_rows
        edges = [0, *range(first, rows, self.config.hop_rows), rows]
        return [(a, b) for a, b in itertools.pairwise(edges) if b > a]

    def _judge(self, name: str, rows: Rows, outcome: Outcome) -> None:
        # Neighbouring windows share rows; the multivariate test sees each row once.
        joint = name == TIME or self.seen % self.config.window_rows < self.config.hop_rows
        judgement = self.detector.judge(window_of(rows), joint=joint, seed=self.seen)
        first, last = (_iso(stamp) for stamp in (rows.event_us.min(), rows.event_us.max()))
        judged = Judged(name, self.seen, first, last, judgement)
        outcome.judged.append(judged)
        kinds = [kind for kind in KINDS if joint or kind != "joint"]
        for begun in self._episodes[name].add(judgement.findings, kinds):
            if not self._told(name, begun.finding.kind):
                outcome.alarms.append(_alarm(judged, begun))

    def _told(self, name: str, kind: str) -> bool:
        """Whether the other windows have raised what lasts: a shift that both see is one episode.

        A day's episode stays open for a week of calm; what is found meanwhile in a window by count is new.
        """
        return self._episodes[COUNT].open(kind) if name == TIME else self._episodes[TIME].lasts(kind)

    def arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The state, as a JSON document and arrays."""
        document = {
            "seen": self._count.seen,
            "period": self._time.period,
            "period_seen": self._time.seen,
            "config": asdict(self.config),
            "episodes": {name: episodes.document() for name, episodes in self._episodes.items()},
        }
        parts = {"count": self._count.rows, "time": self._time.rows, "ahead": self._time.ahead}
        return document, {
            f"{name}_{key}": array
            for name, rows in parts.items()
            for key, array in (("us", rows.event_us), ("table", rows.table))
        }

    def restore(self, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """What `arrays` gave; with other settings than these, or other features, nothing is restored."""
        if document["config"] != asdict(self.config) or arrays["count_table"].shape[1] != self._columns:
            return
        rows = {name: Rows(arrays[f"{name}_us"], arrays[f"{name}_table"]) for name in ("count", "time", "ahead")}
        self._count.rows, self._count.seen = rows["count"], document["seen"]
        self._time.rows, self._time.ahead = rows["time"], rows["ahead"]
        self._time.period, self._time.seen = document["period"], document["period_seen"]
        for name, episodes in self._episodes.items():
            episodes.restore(document["episodes"][name])


def window_of(rows: Rows) -> Window:
    table = rows.table
    return Window(table[:, :-2], table[:, -2], table[:, -1] > 0.5)


def _alarm(judged: Judged, begun: Confirmed) -> Alarm:
    finding, version = begun.finding, judged.judgement.model_version
    identity = f"{version}/{judged.window}/{judged.number}/{finding.kind}/{','.join(finding.features)}"
    return Alarm(
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        raised_at=datetime.now(UTC).isoformat(timespec="seconds"),
        kind=finding.kind,
        features=finding.features,
        severity=finding.severity,
        reason=f"{finding.reason}, in {begun.judgements} windows running",
        window=judged.window,
        first_event=judged.first_event,
        last_event=judged.last_event,
        requests=judged.number,
        model_version=version,
        retrain=finding.kind in RETRAIN_KINDS,
    )


def _iso(us: np.int64) -> str:
    return datetime.fromtimestamp(int(us) / 1e6, UTC).isoformat(timespec="seconds")
