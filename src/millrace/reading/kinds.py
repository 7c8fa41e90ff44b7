"""How a value is read, by the kind of its field (`millrace.fields.Kind`): SQL steps and the ways they can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa

from millrace.event_ids import WHOLE_ID
from millrace.fields import Kind
from millrace.reading.document import FieldSource
from millrace.reading.numerals import numeral
from millrace.reading.steps import Cast, How, alias, listed, unreadable
from millrace.reading.times import instant

_ROUNDING: Final = "0.0001"
"""How far from a whole cent money may be: 57.16 as a float is 57.159999…, 12.345 is no sum of money."""
YES: Final = ("1", "1.0", "true", "t", "yes", "y")
NO: Final = ("0", "0.0", "false", "f", "no", "n")
"""What a class says in any case where the columns document has no words for it."""


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
    steps = ((source, column), (alias(name), _signed(value, how)))
    return Cast(steps, (unreadable(name), *_dropped(name, how)))


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
    return Cast((*steps, (alias(name), finite)), (unreadable(name), *_dropped(name, how)))


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


def _dropped(name: str, how: How) -> tuple[tuple[str, str], ...]:
    """The problem of a negative value where the document drops those, whatever the field's own minimum is."""
    return ((f"{alias(name)} < 0", f"{name}_negative"),) if how.source.negative == "drop" else ()


def _money(name: str, column: str, family: str, how: How) -> Cast:
    if family == "cents":
        return _cents(name, column, how)

    source, exact = f"__{name}_source", f"__{name}_exact"
    number = f"TRY_CAST({source} AS DOUBLE)"
    value = _from_text(source, "DECIMAL(30, 8)", how) if family == "text" else f"TRY_CAST({source} AS DECIMAL(30, 8))"
    if how.source.minor_units:
        value = f"TRY_CAST({value} * CAST(0.01 AS DECIMAL(3, 2)) AS DECIMAL(30, 8))"

    steps = ((source, column), (exact, _signed(value, how)), (alias(name), f"TRY_CAST({exact} AS DECIMAL(12, 2))"))
    problems = [
        (f"{exact} IS NULL AND isfinite({number}) AND abs({number}) >= 1e10", f"{name}_too_large"),
        (f"{source} IS NOT NULL AND {exact} IS NULL", f"{name}_unreadable"),
        (f"{exact} IS NOT NULL AND {alias(name)} IS NULL", f"{name}_too_large"),
    ]
    if not how.source.round:
        problems.append((f"abs({exact} - {alias(name)}) > {_ROUNDING}", f"{name}_too_precise"))
    return Cast(steps, (*problems, *_dropped(name, how)))


def _cents(name: str, column: str, how: How) -> Cast:
    """Money that comes as decimals with two places at most: nothing is rounded, and little can fail."""
    source = f"__{name}_source"
    value = _signed(f"TRY_CAST({source} AS DECIMAL(12, 2))", how)
    steps = ((source, column), (alias(name), f"CAST({value} AS DECIMAL(12, 2))"))
    too_large = (f"{source} IS NOT NULL AND {alias(name)} IS NULL", f"{name}_too_large")
    return Cast(steps, (too_large, *_dropped(name, how)))


def _class(name: str, column: str, family: str, how: How) -> Cast:
    source = f"__{name}_source"
    words = how.source.positive, how.source.negative
    text = f"lower(CAST({source} AS VARCHAR))"
    if any(words):
        value = _worded(text, family, how.source)
    elif family in ("integer", "float", "decimal"):
        value = f"CASE WHEN {source} IN (0, 1) THEN CAST({source} AS TINYINT) END"
    else:
        value = f"CASE WHEN {text} IN ({listed(NO)}) THEN 0 WHEN {text} IN ({listed(YES)}) THEN 1 END"
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
        return f"CASE WHEN {text} IN ({listed(positive)}) THEN 1 WHEN {text} IS NOT NULL THEN 0 END"
    if not positive:
        return f"CASE WHEN {text} IN ({listed(negative)}) THEN 0 WHEN {text} IS NOT NULL THEN 1 END"
    return f"CASE WHEN {text} IN ({listed(negative)}) THEN 0 WHEN {text} IN ({listed(positive)}) THEN 1 END"


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
    Kind.INSTANT: instant,
    Kind.KEY: _key,
    Kind.MONEY: _money,
    Kind.NUMBER: _number,
    Kind.WHOLE: _whole,
    Kind.CLASS: _class,
    Kind.TEXT: _text,
}
