"""How a value is read, by the kind of its field (`millrace.fields.Kind`): SQL steps and the ways they can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC as UTC_TIME
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from millrace.errors import ConfigError
from millrace.event_ids import WHOLE_ID
from millrace.fields import Kind
from millrace.instants import microseconds
from millrace.reading.document import FieldSource, ReadOptions
from millrace.reading.numerals import numeral

UTC: Final = "UTC"
FIRST_INSTANT, END_INSTANT = "1970-01-01 00:00:00+00", "2200-01-01 00:00:00+00"
_END_US: Final = 7_258_118_400_000_000
_OFFSET: Final = r"\d:\d\d(:\d\d(\.\d+)?)?\s*([zZ]|[A-Z]{2,4}|[+-]\d\d(:?\d\d)?)$"
"""A time of day that ends in an offset, Z or UTC."""
_ROUNDING: Final = "0.0001"
"""How far from a whole cent money may be: 57.16 as a float is 57.159999…, 12.345 is no sum of money."""
_PER_EPOCH: Final = {"s": "* 1000000", "ms": "* 1000", "us": "* 1", "ns": "/ 1000"}
_STEP_US: Final = {
    "second": 10**6,
    "minute": 60 * 10**6,
    "hour": 3600 * 10**6,
    "day": 86400 * 10**6,
    "week": 604800 * 10**6,
}
YES: Final = ("1", "1.0", "true", "t", "yes", "y")
NO: Final = ("0", "0.0", "false", "f", "no", "n")
"""What a class says in any case where the columns document has no words for it."""


@dataclass(frozen=True, slots=True)
class How:
    """What the columns document says of a field's values."""

    source: FieldSource
    timezone: str
    decimal: str
    thousands: str

    @classmethod
    def of(cls, source: FieldSource, read: ReadOptions) -> How:
        """A field's own marks win over those of the whole source."""
        decimal = read.decimal if source.decimal is None else source.decimal
        thousands = read.thousands if source.thousands is None else source.thousands
        return cls(source, read.timezone, decimal, thousands)


@dataclass(frozen=True, slots=True)
class Cast:
    """SQL that reads one column, and the ways it can fail, first match first."""

    steps: tuple[tuple[str, str], ...]
    """(alias, expression) in order; a later one may use the aliases before it. The last is the value."""
    problems: tuple[tuple[str, str], ...] = ()
    """(condition, reason)."""


def _whole(name: str, column: str, family: str, how: How) -> Cast:
    source = f"__{name}_source"
    whole = {
        "text": f"regexp_full_match({source}, '{WHOLE_ID}')",
        "float": f"{source} = trunc({source}) AND abs({source}) < 9007199254740992",
        "decimal": f"{source} = trunc({source})",
        "integer": "TRUE",
    }[family]
    value = f"CASE WHEN {whole} THEN TRY_CAST({source} AS BIGINT) END"
    if family == "text" and (how.decimal, how.thousands) != (".", ""):
        value = f"TRY_CAST({numeral(source, how.decimal, how.thousands)} AS BIGINT)"
    return Cast(((source, column), (alias(name), _signed(value, how))), (_unreadable(name),))


def _id(name: str, column: str, family: str, how: How) -> Cast:
    """A whole number as it is; any other text as 63 bits of its hash, as in `millrace.event_ids`."""
    if family != "text":
        return _whole(name, column, family, how)
    source = f"__{name}_source"
    whole = f"CASE WHEN regexp_full_match({source}, '{WHOLE_ID}') THEN TRY_CAST({source} AS BIGINT) END"
    hashed = f"CAST(md5_number_lower({source}) >> 1 AS BIGINT)"
    return Cast(((source, column), (alias(name), f"coalesce({whole}, {hashed})")))


def _key(name: str, column: str, family: str, _: How) -> Cast:
    """An id is text; one that went through a float is the whole number it was, as in `millrace.pseudonyms`."""
    if family in ("float", "decimal"):
        whole = f"TRY_CAST(CASE WHEN {column} = trunc({column}) THEN {column} END AS BIGINT)"
        column = f"coalesce(CAST({whole} AS VARCHAR), CAST({column} AS VARCHAR))"
    if family == "text":
        column = f"regexp_replace({column}, '^([+-]?[0-9]+)\\.0+$', '\\1')"
    return Cast(((alias(name), f"CAST({column} AS VARCHAR)"),))


def _text(name: str, column: str, _family: str, _: How) -> Cast:
    return Cast(((alias(name), f"CAST({column} AS VARCHAR)"),))


def _number(name: str, column: str, family: str, how: How) -> Cast:
    source = f"__{name}_source"
    value = f"TRY_CAST({source} AS DOUBLE)"
    if family == "text":
        value = _from_text(source, "DOUBLE", how)
    steps = ((source, column), (f"__{name}_read", _signed(value, how)))
    finite = f"CASE WHEN isfinite(__{name}_read) THEN __{name}_read END"
    return Cast((*steps, (alias(name), finite)), (_unreadable(name),))


def _from_text(source: str, kind: str, how: How) -> str:
    """A number that is text; plain ones by the shortest way, for nearly all are.

    DuckDB reads 1_000 as 1000; nobody who exports numbers means that.
    """
    cleaned = f"TRY_CAST({numeral(source, how.decimal, how.thousands)} AS {kind})"
    if (how.decimal, how.thousands) != (".", ""):
        return cleaned
    plain = f"CASE WHEN NOT contains({source}, '_') THEN TRY_CAST({source} AS {kind}) END"
    return f"coalesce({plain}, {cleaned})"


def _signed(value: str, how: How) -> str:
    return f"abs({value})" if how.source.negative == "turn" else value


def _money(name: str, column: str, family: str, how: How) -> Cast:
    source = f"__{name}_source"
    if family == "cents":
        value = _signed(f"TRY_CAST({source} AS DECIMAL(12, 2))", how)
        steps = ((source, column), (alias(name), f"CAST({value} AS DECIMAL(12, 2))"))
        return Cast(steps, ((f"{source} IS NOT NULL AND {alias(name)} IS NULL", f"{name}_too_large"),))

    exact = f"TRY_CAST({source} AS DECIMAL(30, 8))"
    number = f"TRY_CAST({source} AS DOUBLE)"
    if family == "text":
        exact = _from_text(source, "DECIMAL(30, 8)", how)
    if how.source.minor_units:
        exact = f"TRY_CAST({exact} * CAST(0.01 AS DECIMAL(3, 2)) AS DECIMAL(30, 8))"
    exact = _signed(exact, how)

    precise = (
        [] if how.source.round else [(f"abs(__{name}_exact - {alias(name)}) > {_ROUNDING}", f"{name}_too_precise")]
    )
    return Cast(
        (
            (source, column),
            (f"__{name}_exact", exact),
            (alias(name), f"TRY_CAST(__{name}_exact AS DECIMAL(12, 2))"),
        ),
        (
            (f"__{name}_exact IS NULL AND isfinite({number}) AND abs({number}) >= 1e10", f"{name}_too_large"),
            (f"{source} IS NOT NULL AND __{name}_exact IS NULL", f"{name}_unreadable"),
            (f"__{name}_exact IS NOT NULL AND {alias(name)} IS NULL", f"{name}_too_large"),
            *precise,
        ),
    )


def _class(name: str, column: str, family: str, how: How) -> Cast:
    source = f"__{name}_source"
    words = how.source.positive, how.source.negative
    text = f"lower(CAST({source} AS VARCHAR))"
    if any(words):
        value = _worded(text, family, how.source)
    elif family in ("integer", "float", "decimal"):
        value = f"CASE WHEN {source} IN (0, 1) THEN CAST({source} AS TINYINT) END"
    else:
        value = f"CASE WHEN {text} IN ({_listed(NO)}) THEN 0 WHEN {text} IN ({_listed(YES)}) THEN 1 END"
    return Cast(
        ((source, column), (alias(name), f"CAST({value} AS TINYINT)")),
        ((f"{source} IS NOT NULL AND {alias(name)} IS NULL", f"{name}_not_0_or_1"),),
    )


def _worded(text: str, family: str, source: FieldSource) -> str:
    """The words of the document; where it names one side alone, everything else is the other."""
    if family in ("float", "decimal"):
        text = f"regexp_replace({text}, '\\.0+$', '')"
    positive = [word.lower() for word in source.positive]
    negative = [word.lower() for word in source.negative]
    if not negative:
        return f"CASE WHEN {text} IN ({_listed(positive)}) THEN 1 WHEN {text} IS NOT NULL THEN 0 END"
    if not positive:
        return f"CASE WHEN {text} IN ({_listed(negative)}) THEN 0 WHEN {text} IS NOT NULL THEN 1 END"
    return f"CASE WHEN {text} IN ({_listed(negative)}) THEN 0 WHEN {text} IN ({_listed(positive)}) THEN 1 END"


def _instant(name: str, column: str, family: str, how: How) -> Cast:
    """Instants as they are; naive times are UTC, or local to the document's timezone when it names one."""
    source = f"__{name}_source"
    naive = f"__{name}_naive"
    read = f"__{name}_read"
    timezone = how.timezone
    steps = [(source, column)]
    problems = [_unreadable(name, read)]

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
    plain = f"try_strptime({source}, [{_listed(naive)}])" if naive else "CAST(NULL AS TIMESTAMP)"
    plain = f"coalesce({plain}, CASE WHEN {iso} THEN TRY_CAST({source} AS TIMESTAMP) END)"
    offset = f"try_strptime(regexp_replace({source}, '[zZ]$', '+0000'), [{_listed(zoned)}])" if zoned else ""
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


def alias(name: str) -> str:
    """What a field's value is called among the steps that read it."""
    return f"__{name}"


def _unreadable(name: str, read: str = "") -> tuple[str, str]:
    return f"__{name}_source IS NOT NULL AND {read or alias(name)} IS NULL", f"{name}_unreadable"


def literal(text: str) -> str:
    """A text of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(literal(word) for word in words)


def family_of(kind: pa.DataType) -> str:
    """What kind of value a raw type holds; the type's own name when none of ours is written in it."""
    types = pa.types
    families: tuple[tuple[str, Callable[[pa.DataType], bool]], ...] = (
        ("text", types.is_string),
        ("integer", types.is_integer),
        ("float", types.is_floating),
        ("decimal", types.is_decimal),
        ("boolean", types.is_boolean),
        ("date", types.is_date),
        ("naive timestamp", lambda one: types.is_timestamp(one) and one.tz is None),
        ("timestamp", lambda one: types.is_timestamp(one) and one.tz is not None),
    )
    return next((family for family, belongs in families if belongs(kind)), str(kind))


_CLOCK_STEPS: Final = tuple(f"{sign} INTERVAL {minutes} MINUTE" for sign in "+-" for minutes in (30, 60))
_NUMBERS: Final = frozenset({"text", "integer", "float", "decimal"})
_TIMES: Final = frozenset({"text", "naive timestamp", "timestamp", "date"})
READABLE: Final = {
    Kind.ID: _NUMBERS,
    Kind.INSTANT: _TIMES,
    Kind.KEY: _NUMBERS,
    Kind.MONEY: _NUMBERS,
    Kind.NUMBER: _NUMBERS,
    Kind.WHOLE: _NUMBERS,
    Kind.CLASS: _NUMBERS | {"boolean"},
    Kind.TEXT: _NUMBERS | _TIMES | {"boolean"},
}
SQL_TYPES: Final = {
    Kind.ID: "BIGINT",
    Kind.INSTANT: "TIMESTAMPTZ",
    Kind.KEY: "VARCHAR",
    Kind.MONEY: "DECIMAL(12, 2)",
    Kind.NUMBER: "DOUBLE",
    Kind.WHOLE: "BIGINT",
    Kind.CLASS: "TINYINT",
    Kind.TEXT: "VARCHAR",
}
BUILDERS: Final[dict[Kind, Callable[[str, str, str, How], Cast]]] = {
    Kind.ID: _id,
    Kind.INSTANT: _instant,
    Kind.KEY: _key,
    Kind.MONEY: _money,
    Kind.NUMBER: _number,
    Kind.WHOLE: _whole,
    Kind.CLASS: _class,
    Kind.TEXT: _text,
}
