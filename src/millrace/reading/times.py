"""How a time is read: ISO 8601, formats of the columns document, counts since 1970 or of steps; in SQL."""

from __future__ import annotations

from datetime import UTC as UTC_TIME
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from millrace.errors import ConfigError
from millrace.instants import microseconds
from millrace.reading.steps import Cast, How, alias, listed, unreadable
from millrace.sql import literal

UTC: Final = "UTC"
FIRST_INSTANT, END_INSTANT = "1970-01-01 00:00:00+00", "2200-01-01 00:00:00+00"
_END_US: Final = 7_258_118_400_000_000
_OFFSET: Final = r"\d:\d\d(:\d\d(\.\d+)?)?\s*([zZ]|[A-Z]{2,4}|[+-]\d\d(:?\d\d)?)$"
"""A time of day that ends in an offset, Z or UTC."""
_PER_EPOCH: Final = {"s": "* 1000000", "ms": "* 1000", "us": "* 1", "ns": "/ 1000"}
_STEP_US: Final = {
    "second": 10**6,
    "minute": 60 * 10**6,
    "hour": 3600 * 10**6,
    "day": 86400 * 10**6,
    "week": 604800 * 10**6,
}
_CLOCK_STEPS: Final = tuple(f"{sign} INTERVAL {minutes} MINUTE" for sign in "+-" for minutes in (30, 60))
"""How far clocks are put forward and back."""


def instant(name: str, column: str, family: str, how: How) -> Cast:
    """Instants as they are; naive times are UTC, or local to the document's timezone when it names one."""
    source = f"__{name}_source"
    naive = f"__{name}_naive"
    read = f"__{name}_read"
    timezone = how.timezone
    steps = [(source, column)]
    problems = [unreadable(name, read)]

    if how.source.epoch or how.source.unit:
        instant = _counted(source, how)
    elif how.source.format and family == "text":
        plain, zoned = _formatted(source, how.source.format)
        steps.append((naive, plain))
        instant = f"timezone({literal(timezone)}, {naive})"
        instant = f"coalesce({zoned}, {instant})" if zoned else instant
        problems += _clock_changes(name, read, naive, timezone) if timezone != UTC else ()
    else:
        instant = f"TRY_CAST({source} AS TIMESTAMPTZ)"
        if timezone != UTC and family in ("text", "naive timestamp", "date"):
            plain = f"TRY_CAST({source} AS TIMESTAMP)"
            instant = f"timezone({literal(timezone)}, {naive})"
            if family == "text":
                has_offset = f"regexp_matches({source}, '{_OFFSET}')"
                plain = f"CASE WHEN NOT {has_offset} THEN {plain} END"
                instant = f"CASE WHEN {has_offset} THEN TRY_CAST({source} AS TIMESTAMPTZ) ELSE {instant} END"
            steps.append((naive, plain))
            problems += _clock_changes(name, read, naive, timezone)

    finite = f"nullif(nullif({instant}, TIMESTAMPTZ 'infinity'), TIMESTAMPTZ '-infinity')"
    inside = f"{read} >= TIMESTAMPTZ '{FIRST_INSTANT}' AND {read} < TIMESTAMPTZ '{END_INSTANT}'"
    steps += [(read, finite), (alias(name), f"CASE WHEN {inside} THEN {read} END")]
    problems.append((f"{read} IS NOT NULL AND {alias(name)} IS NULL", f"{name}_out_of_range"))
    return Cast(tuple(steps), tuple(problems))


def _formatted(source: str, formats: tuple[str, ...]) -> tuple[str, str]:
    """Naive times and times with an offset (empty: none), by the formats in order.

    Spreadsheets and databases give some cells as times, which come in ISO 8601 with a T: those are read as well.
    """
    iso = f"regexp_matches({source}, '^\\d{{4}}-\\d\\d-\\d\\dT')"
    zoned = [one for one in formats if "%z" in one or "%Z" in one]
    naive = [one for one in formats if one not in zoned]
    plain = f"try_strptime({source}, [{listed(naive)}])" if naive else "CAST(NULL AS TIMESTAMP)"
    plain = f"coalesce({plain}, CASE WHEN {iso} THEN TRY_CAST({source} AS TIMESTAMP) END)"
    offset = f"try_strptime(regexp_replace({source}, '[zZ]$', '+0000'), [{listed(zoned)}])" if zoned else ""
    return plain, offset


def _counted(source: str, how: How) -> str:
    """Microseconds since 1970 from a count of units; what lies outside the range stays just outside it."""
    count = f"TRY_CAST({source} AS DECIMAL(28, 9))"
    if how.source.unit:
        start = step_start_us(how.source.start, how.timezone)
        count = f"TRY_CAST({source} AS DOUBLE) * {_STEP_US[how.source.unit]} + {start}"
    else:
        count = f"{count} {_PER_EPOCH[how.source.epoch or 's']}"
    return f"make_timestamptz(CAST(round(greatest(least({count}, {_END_US}), -1)) AS BIGINT))"


def step_start_us(start: str, timezone: str) -> int:
    """Microseconds of an ISO date or time, local to `timezone` where it has no offset; raises ConfigError."""
    try:
        instant = datetime.fromisoformat(start)
    except ValueError as error:
        raise ConfigError(f"start is {start!r}; wanted an ISO date or time, like 2024-01-01") from error
    return microseconds(
        (instant if instant.tzinfo else instant.replace(tzinfo=ZoneInfo(timezone))).astimezone(UTC_TIME)
    )


def _clock_changes(name: str, read: str, naive: str, timezone: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """A local time that the clock skipped does not come back as it was; one that it showed twice has a twin."""
    local = literal(timezone)
    twins = [f"timezone({local}, {read} {step}) = {naive}" for step in _CLOCK_STEPS]
    return (
        (f"timezone({local}, {read}) <> {naive}", f"{name}_nonexistent_local_time"),
        (f"{naive} IS NOT NULL AND ({' OR '.join(twins)})", f"{name}_ambiguous_local_time"),
    )
