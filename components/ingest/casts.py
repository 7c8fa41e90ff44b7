"""Raw columns to typed ones, in SQL: each value is read or it is null, and UNREADABLE says why.

Everything DuckDB can read comes in: text of a CSV, or the integers, floats, decimals, booleans and timestamps of a
Parquet file. Rules about values that could be read are `checks.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from components.ingest.columns import Shape
from fraud.schema import CARRIED_TYPES, LABEL_DELAY_DAYS, TRANSACTION_SCHEMA
from millrace.errors import SchemaMismatch

UNREADABLE: Final = "__unreadable"
LABEL_DELAY: Final = "__label_delay_us"
UTC: Final = "UTC"
_OFFSET: Final = r"\d:\d\d(:\d\d(\.\d+)?)?\s*([zZ]|[A-Z]{2,4}|[+-]\d\d(:?\d\d)?)$"
"""A time of day that ends in an offset, Z or UTC."""
_ROUNDING: Final = "0.0001"
"""How far from a whole cent an amount may be: 57.16 as a float is 57.159999…, 12.345 is no amount."""


@dataclass(frozen=True, slots=True)
class Cast:
    """SQL that reads one column, and the ways it can fail, first match first."""

    steps: tuple[tuple[str, str], ...]
    """(alias, expression) in order; a later one may use the aliases before it. The last is the value."""
    problems: tuple[tuple[str, str], ...] = ()
    """(condition, reason)."""


def cast_sql(shape: Shape, carried: pa.Schema, timezone: str, where: str) -> str:
    """SELECT over the relation `raw`: our columns typed, LABEL_DELAY, UNREADABLE; rows stay in order.

    Carried columns are those of `carried`; one that this file lacks is null. Raises SchemaMismatch when a column has
    a type that no value of ours is ever written in.
    """
    casts = [_cast(name, shape, timezone, where) for name in TRANSACTION_SCHEMA.names]
    steps = [step for cast in casts for step in cast.steps]
    problems = [problem for cast in casts for problem in cast.problems]
    whens = " ".join(f"WHEN {condition} THEN '{reason}'" for condition, reason in problems)
    inner = ", ".join(f"{expression} AS {_quote(alias)}" for alias, expression in steps)
    ours = ", ".join(_quote(f"__{name}") + f" AS {_quote(name)}" for name in TRANSACTION_SCHEMA.names)
    others = "".join(f", {_carried(field, shape)} AS {_quote(field.name)}" for field in carried)
    delay = f"epoch_us(__label_timestamp) - epoch_us(__event_timestamp) AS {LABEL_DELAY}"
    inside = f"SELECT *, {inner} FROM raw"
    return f"SELECT {ours}{others}, {delay}, CASE {whens} END AS {UNREADABLE} FROM ({inside})"


def _cast(name: str, shape: Shape, timezone: str, where: str) -> Cast:
    if name not in shape.name_of:
        return Cast(((f"__{name}", _DEFAULT_LABEL_TIME),))
    raw = shape.name_of[name]
    kind = shape.type_of(raw)
    column = _quote(raw)
    if pa.types.is_string(kind):
        column = f"nullif(trim({column}), '')"
    if pa.types.is_floating(kind):
        column = f"(CASE WHEN isnan({column}) THEN NULL ELSE {column} END)"
    family = _family(kind)
    if family not in _READABLE[name]:
        wanted = " or ".join(sorted(_READABLE[name]))
        raise SchemaMismatch(f"{where}: column {raw!r} ({name}) is {kind}; wanted {wanted}. Fix the export.")
    if name == "amount" and family == "decimal" and kind.scale <= 2:
        family = "cents"
    return _BUILDERS[name](name, column, family, timezone)


def _transaction_id(name: str, column: str, family: str, _: str) -> Cast:
    whole = {
        "text": "regexp_full_match(__source, '[+-]?[0-9]+(\\.0*)?')",
        "float": "__source = trunc(__source) AND abs(__source) < 9007199254740992",
        "decimal": "__source = trunc(__source)",
        "integer": "TRUE",
    }[family].replace("__source", f"__{name}_source")
    value = f"CASE WHEN {whole} THEN TRY_CAST(__{name}_source AS BIGINT) END"
    return Cast(((f"__{name}_source", column), (f"__{name}", value)), (_unreadable(name),))


def _entity(name: str, column: str, family: str, _: str) -> Cast:
    """An id is text; a float without a fraction is an id that went through a float."""
    if family in ("float", "decimal"):
        whole = f"TRY_CAST(CASE WHEN {column} = trunc({column}) THEN {column} END AS BIGINT)"
        column = f"coalesce(CAST({whole} AS VARCHAR), CAST({column} AS VARCHAR))"
    return Cast(((f"__{name}", f"CAST({column} AS VARCHAR)"),))


def _amount(name: str, column: str, family: str, _: str) -> Cast:
    if family == "cents":
        steps = ((f"__{name}_source", column), (f"__{name}", f"TRY_CAST(__{name}_source AS DECIMAL(12, 2))"))
        return Cast(steps, ((f"__{name}_source IS NOT NULL AND __{name} IS NULL", f"{name}_too_large"),))
    exact = f"TRY_CAST(__{name}_source AS DECIMAL(30, 8))"
    number = f"TRY_CAST(__{name}_source AS DOUBLE)"
    if family == "text":  # DuckDB reads 1_000 as 1000; nobody who exports amounts means that
        exact = f"CASE WHEN NOT contains(__{name}_source, '_') THEN {exact} END"
    return Cast(
        (
            (f"__{name}_source", column),
            (f"__{name}_exact", exact),
            (f"__{name}", f"TRY_CAST(__{name}_exact AS DECIMAL(12, 2))"),
        ),
        (
            (f"__{name}_exact IS NULL AND isfinite({number}) AND abs({number}) >= 1e10", f"{name}_too_large"),
            (f"__{name}_source IS NOT NULL AND __{name}_exact IS NULL", f"{name}_unreadable"),
            (f"__{name}_exact IS NOT NULL AND __{name} IS NULL", f"{name}_too_large"),
            (f"abs(__{name}_exact - __{name}) > {_ROUNDING}", f"{name}_too_precise"),
        ),
    )


def _is_fraud(name: str, column: str, family: str, _: str) -> Cast:
    text = f"lower(CAST(__{name}_source AS VARCHAR))"
    value = f"CASE WHEN {text} IN ('0', '0.0', 'false') THEN 0 WHEN {text} IN ('1', '1.0', 'true') THEN 1 END"
    if family in ("integer", "float", "decimal"):
        value = f"CASE WHEN __{name}_source IN (0, 1) THEN CAST(__{name}_source AS TINYINT) END"
    return Cast(
        ((f"__{name}_source", column), (f"__{name}", f"CAST({value} AS TINYINT)")),
        ((f"__{name}_source IS NOT NULL AND __{name} IS NULL", f"{name}_not_0_or_1"),),
    )


def _event_timestamp(name: str, column: str, family: str, timezone: str) -> Cast:
    """Instants as they are; naive times are UTC, or local to `timezone` when one is given."""
    source, naive = f"__{name}_source", f"__{name}_naive"
    if timezone != UTC and family in ("text", "naive timestamp", "date"):
        plain = f"TRY_CAST({source} AS TIMESTAMP)"
        instant = f"timezone('{timezone}', {naive})"
        if family == "text":
            has_offset = f"regexp_matches({source}, '{_OFFSET}')"
            plain = f"CASE WHEN NOT {has_offset} THEN {plain} END"
            instant = f"CASE WHEN {has_offset} THEN TRY_CAST({source} AS TIMESTAMPTZ) ELSE {instant} END"
        steps = ((source, column), (naive, plain), (f"__{name}", _finite(instant)))
        return Cast(steps, (_unreadable(name), *_clock_changes(name, naive, timezone)))
    instant = _finite(f"TRY_CAST({source} AS TIMESTAMPTZ)")
    return Cast(((source, column), (f"__{name}", instant)), (_unreadable(name),))


def _label_timestamp(name: str, column: str, family: str, timezone: str) -> Cast:
    """Known only with its label; a label without a time became known LABEL_DELAY_DAYS after the event."""
    given = _event_timestamp("label_given", column, family, timezone)
    value = f"CASE WHEN __is_fraud IS NULL THEN NULL ELSE coalesce(__label_given, {_DEFAULT_LABEL_TIME}) END"
    problems = tuple((condition, reason.replace("label_given", name)) for condition, reason in given.problems)
    return Cast((*given.steps, (f"__{name}", value)), problems)


def _clock_changes(name: str, naive: str, timezone: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """A local time that the clock skipped does not survive the round trip; one that it showed twice has a twin."""
    twins = [f"timezone('{timezone}', __{name} {step}) = {naive}" for step in _CLOCK_STEPS]
    return (
        (f"timezone('{timezone}', __{name}) <> {naive}", f"{name}_nonexistent_local_time"),
        (f"{naive} IS NOT NULL AND ({' OR '.join(twins)})", f"{name}_ambiguous_local_time"),
    )


def _carried(field: pa.Field, shape: Shape) -> str:
    if field.name in CARRIED_TYPES:
        raw = shape.name_of.get(field.name)
        return "CAST(NULL AS TINYINT)" if raw is None else f"TRY_CAST({_quote(raw)} AS TINYINT)"
    if field.name not in shape.raw.names:
        return "NULL"
    column = _quote(field.name)
    return f"CAST({column} AS VARCHAR)" if pa.types.is_string(field.type) else column


def _unreadable(name: str) -> tuple[str, str]:
    return f"__{name}_source IS NOT NULL AND __{name} IS NULL", f"{name}_unreadable"


def _finite(instant: str) -> str:
    return f"nullif(nullif({instant}, TIMESTAMPTZ 'infinity'), TIMESTAMPTZ '-infinity')"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _family(kind: pa.DataType) -> str:
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
_DEFAULT_LABEL_TIME: Final = (
    f"CASE WHEN __is_fraud IS NULL THEN NULL ELSE __event_timestamp + INTERVAL {LABEL_DELAY_DAYS} DAY END"
)
_NUMBERS: Final = frozenset({"text", "integer", "float", "decimal"})
_TIMES: Final = frozenset({"text", "naive timestamp", "timestamp", "date"})
_READABLE: Final = {
    "transaction_id": _NUMBERS,
    "event_timestamp": _TIMES,
    "customer_id": _NUMBERS,
    "terminal_id": _NUMBERS,
    "amount": _NUMBERS,
    "is_fraud": _NUMBERS | {"boolean"},
    "label_timestamp": _TIMES,
}
_BUILDERS: Final[dict[str, Callable[[str, str, str, str], Cast]]] = {
    "transaction_id": _transaction_id,
    "event_timestamp": _event_timestamp,
    "customer_id": _entity,
    "terminal_id": _entity,
    "amount": _amount,
    "is_fraud": _is_fraud,
    "label_timestamp": _label_timestamp,
}
