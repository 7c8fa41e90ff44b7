"""Days, instants and refreshes as numbers. One place, so that no two modules count them differently.

Times are UTC; a day is a calendar day of UTC, its number that of days since 1970.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

DAY_US: Final = 86_400_000_000
"""Microseconds of a day."""
NEVER_US: Final = -(2**62)
"""Event time of padding: older than any window."""
EPOCH: Final = date(1970, 1, 1)


def day_number(day: date) -> int:
    """Days since 1970."""
    return (day - EPOCH).days


def date_of(number: int) -> date:
    """The day of that number."""
    return EPOCH + timedelta(days=int(number))


def start_of(day: date) -> datetime:
    """00:00 UTC of a day."""
    return datetime.combine(day, time(), UTC)


def microseconds(instant: datetime) -> int:
    """Microseconds since 1970, the unit of every `*_us`."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def instant_of(event_us: int) -> datetime:
    """The UTC instant of so many microseconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(event_us))


def last_refresh(instant: datetime, per_day: int) -> datetime:
    """The refresh of states at or before a UTC instant; the next is a day / `per_day` later."""
    midnight = instant.replace(hour=0, minute=0, second=0, microsecond=0)
    every = timedelta(days=1) / per_day
    return midnight + (instant - midnight) // every * every
