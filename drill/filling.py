"""The lake of a drill, a day longer every day, and the generations of state that are filled and renewed from it.

As on a cluster: every generation that a model version reads is filled at midnight and renewed in between. What takes
long is done in a thread while traffic flows, so that the simulated clock does not wait for it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from components.build_features.core import build_features
from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from components.materialize.core import materialize, sources_of
from components.materialize.renewal import renew, renewable
from components.materialize.store import Aside
from drill.live import Live
from drill.moments import RETRAINING_PATIENCE_S, Stopwatch
from millrace.errors import AlreadyRunning
from millrace.installed import load
from millrace.instants import start_of
from millrace.lake.feast_home import repository
from millrace.lake.manifest import Manifest
from millrace.registry.generations import generations_in_use
from millrace.settings import Settings

DAY: Final = timedelta(days=1)


@dataclass(slots=True)
class Filling:
    """What the store was filled from, and what it will be filled from next."""

    live: Live
    settings: Settings
    raw: Path
    """Folder of the days that have been delivered."""
    watch: Stopwatch
    features: Manifest | None = None
    """The newest feature set that was asked for."""
    lake: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="lake"))
    building: Future[Manifest] | None = None
    """The feature set of the day that has begun, while its first events are sent."""
    filled: datetime | None = None
    """The online store holds states as of then, and what came since."""
    filled_from: Manifest | None = None
    """The feature set behind it."""
    aside: Aside = field(init=False)
    renewals: Aside = field(init=False)
    preparing: tuple[datetime, Future[Manifest]] | None = None
    """The states of the next midnight, put together while the day before it is sent."""

    def __post_init__(self) -> None:
        workload = load(self.settings.workload)
        self.aside = Aside(workload)
        self.renewals = Aside(workload)

    def begin_day(self) -> None:
        """Begin to build the lake up to the end of the day that has been delivered."""
        self.building = self.lake.submit(self._build)

    def fill(self, at: datetime) -> None:
        """As pipeline and refresh job do: a fill at midnight, once all that was sent has settled; then renewals."""
        if at == self.filled:
            return
        midnight = start_of(at.date())
        if at != midnight and (self.filled is None or self.filled < midnight):
            self.fill(midnight)  # the pipeline's hour comes, also where the day's first event is a later one
        names = self._generations()
        lacking = names if at == midnight else [name for name in names if not self._renewed(name, at)]
        if not lacking:
            self.filled = at
            return
        with self.watch.timing("log"):
            self.live.wait_logged()
        with self.watch.timing("lake"):
            features = self._prepared(at)
        with self.watch.timing("store"):
            for name in lacking:
                lake, home = self.settings.lake, self.settings.home
                materialize(features, lake, home, at, generation=name, aside=self.aside, **self._limits)
        self.filled, self.filled_from = at, features
        if _knows(features, at):
            following = start_of(at.date() + DAY)
            self.preparing = following, self.lake.submit(self._prepare, following)

    def _generations(self) -> list[str]:
        """Those that a model version reads; before the first one, one of the drill's own."""
        return sorted(generations_in_use(self.settings)) or ["drill"]

    def _renewed(self, generation: str, at: datetime) -> bool:
        """Whether refreshed states were all that it lacked; that of a retraining was filled otherwise.

        A feature set that ends with the day before has states of this day too, without one of its events.
        """
        known, lake = self.filled_from, self.settings.lake
        repo = repository(self.settings.home, self.settings.workload, generation)
        if known is None or not _knows(known, at) or not renewable(known, lake, repo, at):
            return False
        with self.watch.timing("store"):
            renew(known, lake, repo, at, aside=self.renewals)
        return True

    def _prepared(self, at: datetime) -> Manifest:
        """The feature set that `at` is filled from, its states being aside."""
        if self.preparing is None or self.preparing[0] != at:
            self.preparing = at, self.lake.submit(self._prepare, at)
        return self.preparing[1].result()

    def _prepare(self, at: datetime) -> Manifest:
        """In the lake's thread."""
        features = self._features(at)
        self.aside.write(sources_of(features, self.settings.lake, at, **self._limits).fetch())
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

    def _build(self) -> Manifest:
        """The lake up to the end of the day that begins: `fill` takes of it what was before its instant, no more."""
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

    def close(self) -> None:
        """Wait for what the threads do, and tidy up."""
        self.lake.shutdown(cancel_futures=True)
        self.aside.close()
        self.renewals.close()


def _knows(features: Manifest, at: datetime) -> bool:
    """Whether a feature set was made with the events of this instant's day."""
    return at.date() <= date.fromisoformat(features.facts["last_day"][:10])
