"""Looks at the feed's volume: the prediction log's own watch while it is silent, and the same looks over whole days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from drill.live import LOG, Live
from drill.world import Script
from millrace.events.log import engine
from millrace.events.prediction import feed_column, feed_name
from millrace.events.table import read_predictions
from millrace.judge.outcomes import answers, columns_of
from millrace.judge.rows import event_us
from millrace.judge.volume import Silence, profile, silences
from millrace.settings import Settings

LOOK_MIN: Final = 10
"""Simulated minutes between two looks at a day whose feed was whole."""
LEAST_DAYS: Final = 3
USUAL_DAYS: Final = 7


def live_look(live: Live, now: datetime) -> list[Silence]:
    """What the log's watch finds silent at `now`, by the events' own time."""
    found: dict[str, Any] = live.get(LOG, f"/v1/feed?by=event_timestamp&now={now:%Y-%m-%dT%H:%M:%SZ}")
    return [Silence(**item) for item in found["silent"]]


def first_silence(settings: Settings, script: Script, day: int) -> tuple[datetime, Silence] | None:
    """The first look of a day that finds something silent, from all that the log has of it by now."""
    first = max(day - USUAL_DAYS, 0)
    database = engine(settings)
    try:
        usual = profile(
            *_between(database, settings.workload, script.instant(first), script.instant(day)),
            day - first,
            kind=feed_name(settings.workload),
        )
        us, ids = _between(database, settings.workload, script.instant(day), script.instant(day + 1))
    finally:
        database.dispose()
    names = np.array(ids, dtype=object)
    for minute in range(60, 1440, LOOK_MIN):
        now = script.instant(day) + timedelta(minutes=minute)
        end = now.timestamp() * 1e6
        low, high = np.searchsorted(us, [end - 3.6e9, end])
        if found := silences(usual, us[low:high], list(names[low:high]), now):
            return now, found[0]
    return None


def words(found: Silence) -> str:
    return f"{found.range}: {found.events} of {found.expected:.0f} in {found.minutes} minutes"


def _between(database: sa.Engine, workload: str, since: datetime, until: datetime) -> tuple[np.ndarray, Sequence[str]]:
    """Times and watched ids of the answers in the log, in order."""
    columns = columns_of(workload)
    rows = answers(read_predictions(database, workload, since, until, columns=columns, by="event_timestamp"), workload)
    watched = feed_column(workload)
    return event_us(rows), rows[watched].to_pylist() if watched else [""] * len(rows)
