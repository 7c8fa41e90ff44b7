"""How a value is read, by the kind of its field (`millrace.fields.Kind`): SQL steps and the ways they can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from millrace.fields import Kind

UTC: Final = "UTC"
FIRST_INSTANT, END_INSTANT = "1970-01-01 00:00:00+00", "2200-01-01 00:00:00+00"
_OFFSET: Final = r"\d:\d\d(:\d\d(\.\d+)?)?\s*([zZ]|[A-Z]{2,4}|[+-]\d\d(:?\d\d)?)$"
"""A time of day that ends in an offset, Z or UTC."""
_ROUNDING: Final = "0.0001"
"""How far from a whole cent money may be: 57.16 as a float is 57.159999…, 12.345 is no sum of money."""


@dataclass(frozen=True, slots=True)
class Cast:
    """SQL that reads one column, and the ways it can fail, first match first."""

    steps: tuple[tuple[str, str], ...]
    """(alias, expression) in order; a later one may use the aliases before it. The last is the value."""
    problems: tuple[tuple[str, str], ...] = ()
    """(condition, reason)."""


def _whole(name: str, column: str, family: str, _: str) -> Cast:
    source = f"__{name}_source"
    whole = {
        "text": f"regexp_full_match({source}, '[+-]?[0-9]+(\\.0*)?')",
        "float": f"{source} = trunc({source}) AND abs({source}) < 9007199254740992",
        "decimal": f"{source} = trunc({source})",
        "integer": "TRUE",
    }[family]
    value = f"CASE WHEN {whole} THEN TRY_CAST({source} AS BIGINT) END"
    return Cast(((source, column), (alias(name), value)), (_unreadable(name),))


def _key(name: str, column: str, family: str, _: str) -> Cast:
    """An id is text; one that went through a float is the whole number it was, as in `millrace.pseudonyms`."""
    if family in ("float", "decimal"):
        whole = f"TRY_CAST(CASE WHEN {column} = trunc({column}) THEN {column} END AS BIGINT)"
        column = f"coalesce(CAST({whole} AS VARCHAR), CAST({column} AS VARCHAR))"
    if family == "text":
        column = f"regexp_replace({column}, '^([+-]?[0-9]+)\\.0+$', '\\1')"
    return Cast(((alias(name), f"CAST({column} AS VARCHAR)"),))


def _text(name: str, column: str, _family: str, _: str) -> Cast:
    return Cast(((alias(name), f"CAST({column} AS VARCHAR)"),))


def _number(name: str, column: str, family: str, _: str) -> Cast:
    source = f"__{name}_source"
    value = f"TRY_CAST({source} AS DOUBLE)"
    if family == "text":  # DuckDB reads 1_000 as 1000; nobody who exports numbers means that
        value = f"CASE WHEN NOT contains({source}, '_') THEN {value} END"
    steps = ((source, column), (f"__{name}_read", value))
    finite = f"CASE WHEN isfinite(__{name}_read) THEN __{name}_read END"
    return Cast((*steps, (alias(name), finite)), (_unreadable(name),))


def _money(name: str, column: str, family: str, _: str) -> Cast:
    source = f"__{name}_source"
    if family == "cents":
        steps = ((source, column), (alias(name), f"TRY_CAST({source} AS DECIMAL(12, 2))"))
        return Cast(steps, ((f"{source} IS NOT NULL AND {alias(name)} IS NULL", f"{name}_too_large"),))

    exact = f"TRY_CAST({source} AS DECIMAL(30, 8))"
    number = f"TRY_CAST({source} AS DOUBLE)"
    if family == "text":  # DuckDB reads 1_000 as 1000; nobody who exports money means that
        exact = f"CASE WHEN NOT contains({source}, '_') THEN {exact} END"

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
            (f"abs(__{name}_exact - {alias(name)}) > {_ROUNDING}", f"{name}_too_precise"),
        ),
    )


def _class(name: str, column: str, family: str, _: str) -> Cast:
    source = f"__{name}_source"
    text = f"lower(CAST({source} AS VARCHAR))"
    value = f"CASE WHEN {text} IN ('0', '0.0', 'false') THEN 0 WHEN {text} IN ('1', '1.0', 'true') THEN 1 END"
    if family in ("integer", "float", "decimal"):
        value = f"CASE WHEN {source} IN (0, 1) THEN CAST({source} AS TINYINT) END"
    return Cast(
        ((source, column), (alias(name), f"CAST({value} AS TINYINT)")),
        ((f"{source} IS NOT NULL AND {alias(name)} IS NULL", f"{name}_not_0_or_1"),),
    )


def _instant(name: str, column: str, family: str, timezone: str) -> Cast:
    """Instants as they are; naive times are UTC, or local to `timezone` when one is given."""
    source = f"__{name}_source"
    naive = f"__{name}_naive"
    read = f"__{name}_read"
    steps = [(source, column)]
    problems = [_unreadable(name, read)]

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


def _clock_changes(name: str, read: str, naive: str, timezone: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """A local time that the clock skipped does not survive the round trip; one that it showed twice has a twin."""
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
BUILDERS: Final[dict[Kind, Callable[[str, str, str, str], Cast]]] = {
    Kind.ID: _whole,
    Kind.INSTANT: _instant,
    Kind.KEY: _key,
    Kind.MONEY: _money,
    Kind.NUMBER: _number,
    Kind.WHOLE: _whole,
    Kind.CLASS: _class,
    Kind.TEXT: _text,
}
