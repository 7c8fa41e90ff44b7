"""Is a workload's feed still there? A look every minute at what was scored, against what this hour usually brings.

The looking is `millrace.judge.volume`'s; here are its inputs from the log, the metric, and the thread. A feed that
has not brought something on each of the last three days has no usual hour, and is not watched.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from millrace.errors import MillraceError
from millrace.events.log import NO_TRIAL, PREDICTIONS, microseconds, reading
from millrace.events.prediction import SHADOW, feed_name
from millrace.events.table import plain, within
from millrace.judge.volume import DAY_US, HOUR_US, WINDOWS_MIN, Profile, Silence, profile, silences
from millrace.observe import telemetry
from millrace.observe.progress import log

LOOK_EVERY_S: Final = 60.0
MOST_DAYS: Final = 28
LEAST_DAYS: Final = 3
WEEK_HOURS: Final = 168
CHUNK_ROWS: Final = 20_000
SCORED_AT, EVENT_TIMESTAMP = "scored_at", "event_timestamp"


class Feed:
    """What is silent, by when it was scored (`by` SCORED_AT), or by its own time, as a replay of old days wants."""

    def __init__(self, database: sa.Engine, workload: str, by: str = SCORED_AT) -> None:
        self.workload = workload
        self._database, self._column = database, PREDICTIONS.c[by]
        self._usual: tuple[date, Profile | None] | None = None

    def look(self, now: datetime) -> list[Silence] | None:
        """Windows that end `now` and brought too little; None where nothing is usual. Raises Unavailable."""
        usual = self._profile(now)
        if usual is None:
            return None
        since = now - timedelta(minutes=max(WINDOWS_MIN))
        with reading(self._database) as connection:
            rows = connection.execute(self._answers(since, now, self._time(), PREDICTIONS.c.feed_key)).all()
        us = np.fromiter((row[0] for row in rows), np.int64, len(rows))
        return silences(usual, us, [row[1] or "" for row in rows], now)

    def _profile(self, now: datetime) -> Profile | None:
        """Of the whole days before today's; made once a day."""
        today = now.astimezone(UTC).date()
        if self._usual is None or self._usual[0] != today:
            self._usual = today, self._profile_of(datetime(today.year, today.month, today.day, tzinfo=UTC))
        return self._usual[1]

    def _profile_of(self, midnight: datetime) -> Profile | None:
        with reading(self._database) as connection:
            days = self._days(connection, midnight)
            if days < LEAST_DAYS:
                return None
            hour = (self._time() // HOUR_US) % WEEK_HOURS
            since = midnight - timedelta(days=days)
            counted = self._answers(since, midnight, hour, PREDICTIONS.c.feed_key, sa.func.count())
            streamed = connection.execution_options(stream_results=True, yield_per=CHUNK_ROWS)
            rows = streamed.execute(counted.group_by(hour, PREDICTIONS.c.feed_key)).all()
        hours, counts = (np.fromiter((row[place] for row in rows), np.int64, len(rows)) for place in (0, 2))
        return profile(hours * HOUR_US, [row[1] or "" for row in rows], days, counts, kind=feed_name(self.workload))

    def _days(self, connection: sa.Connection, midnight: datetime) -> int:
        """Whole days that there is something of, at most MOST_DAYS; 0 where one of the last LEAST_DAYS brought none."""
        lately = self._answers(midnight - timedelta(days=LEAST_DAYS), midnight, self._time() // DAY_US).distinct()
        if len(connection.execute(lately).all()) < LEAST_DAYS:
            return 0
        first = self._answers(midnight - timedelta(days=MOST_DAYS), midnight, sa.func.min(self._time()))
        oldest = connection.execute(first).scalar_one()
        return int(microseconds(midnight) // DAY_US - int(oldest) // DAY_US)

    def _answers(self, since: datetime, until: datetime, *columns: Any) -> sa.Select[Any]:
        own = PREDICTIONS.c.workload == self.workload
        arm = sa.func.coalesce(PREDICTIONS.c.arm, "") != SHADOW
        return sa.select(*columns).where(own, *within(self._column, since, until), arm, NO_TRIAL)

    def _time(self) -> Any:
        return plain(self._database, self._column)


class FeedWatch(threading.Thread):
    """Looks at every feed each minute and tells the metrics; a log line when it changes."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        super().__init__(name="feed-watch", daemon=True)
        self._feeds = feeds
        self._stopping = threading.Event()
        self._silent: dict[str, list[str]] = {feed.workload: [] for feed in feeds}

    def run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):  # first of all the writer makes the tables
            self.look(datetime.now(UTC))

    def stop(self) -> None:
        self._stopping.set()

    def look(self, now: datetime) -> None:
        """A database that is away has an alert of its own."""
        for feed in self._feeds:
            try:
                self._tell(feed.workload, feed.look(now))
            except MillraceError as error:
                log("feed_not_looked_at", workload=feed.workload, error=str(error))

    def _tell(self, workload: str, found: list[Silence] | None) -> None:
        telemetry.FEED_WATCHED.labels(workload).set(found is not None)
        telemetry.FEED_SILENT.labels(workload).set(len(found or ()))
        silent, before = sorted({item.range for item in found or ()}), self._silent[workload]
        if silent != before:
            worst = found[0] if found else None
            about = (
                {"events": worst.events, "expected": round(worst.expected), "minutes": worst.minutes} if worst else {}
            )
            log("feed_silent" if silent else "feed_back", workload=workload, ranges=silent or before, **about)
        self._silent[workload] = silent
