"""Raw columns to typed ones, in SQL: each value is read or it is null, and FAULT says why.

Everything DuckDB can read comes in: text of a CSV, or the integers, floats, decimals, booleans and timestamps of a
Parquet file. How one column is read is `kinds.py`'s; rules about values that could be read are `checks.py`'s. Raw and
carried columns go by number, so that no name of a source can be one of ours.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from components.ingest.columns import Shape
from components.ingest.kinds import BUILDERS, READABLE, SQL_TYPES, Cast, alias, family_of, literal
from millrace.errors import SchemaMismatch
from millrace.fields import Field, Kind
from millrace.workload import Schema

FAULT: Final = "__fault"
"""Column with the reason that a row cannot be read for; null for the others."""
BROKEN: Final = "__broken"
"""Column with the first of the workload's rules that a row breaks; null for the others."""
LABEL_DELAY: Final = "__label_delay_us"
_CARRIED_SQL: Final = {
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.string(): "VARCHAR",
}


def raw_name(place: int) -> str:
    """Name of a file's column in `raw`."""
    return f"__raw_{place}"


def carried_name(place: int) -> str:
    """Name of a carried column until it is written."""
    return f"__carried_{place}"


def cast_sql(shape: Shape, schema: Schema, carried: pa.Schema, timezone: str, where: str) -> str:
    """SELECT over the relation `raw`: the fields typed, carried columns, LABEL_DELAY, FAULT, BROKEN; order is kept.

    Carried columns are those of `carried`; one that this file lacks is null. Raises SchemaMismatch when a column has
    a type that no value of ours is ever written in.
    """
    given = [field for field in schema.FIELDS if field.name in shape.name_of]
    casts = [_cast(field, shape, schema, timezone, where) for field in given]
    steps = [f"{expression} AS {quoted(alias)}" for cast in casts for alias, expression in cast.steps]
    problems = [problem for cast in casts for problem in cast.problems]
    typed = [f"{quoted(alias(field.name))} AS {quoted(field.name)}" for field in given]
    others = [f"{_carried(field, shape, schema)} AS {carried_name(place)}" for place, field in enumerate(carried)]
    kept = [carried_name(place) for place in range(len(carried))]

    fields = [quoted(field.name) for field in schema.FIELDS]
    label = schema.LABEL
    when = f"coalesce(label_timestamp, event_timestamp + INTERVAL {label.delay_days} DAY)"
    known = f"CASE WHEN {quoted(label.column)} IS NOT NULL THEN {when} END AS label_timestamp"
    broken = _case([(f"({condition})", literal(reason)) for reason, condition in schema.RULES.items()])
    delay = f"epoch_us(label_timestamp) - epoch_us(event_timestamp) AS {LABEL_DELAY}"

    return f"""
        WITH read AS (SELECT {", ".join(["*", *steps])} FROM raw),
        typed AS (SELECT {", ".join([*typed, *others])},
            {_case([(condition, literal(reason)) for condition, reason in problems])} AS {FAULT} FROM read),
        made AS (SELECT {", ".join([*(_made(field, shape) for field in schema.FIELDS), *kept, FAULT])} FROM typed),
        complete AS (SELECT * REPLACE ({known}) FROM made)
        SELECT {", ".join([*fields, *kept])}, {delay}, {FAULT}, {broken} AS {BROKEN} FROM complete
        """


def _made(field: Field, shape: Shape) -> str:
    """A field that the file has, or what stands for it: null, or the SQL of the workload."""
    if field.name in shape.name_of:
        return quoted(field.name)
    return f"TRY_CAST(({field.sql or 'NULL'}) AS {SQL_TYPES[field.kind]}) AS {quoted(field.name)}"


def _cast(field: Field, shape: Shape, schema: Schema, timezone: str, where: str) -> Cast:
    raw = shape.name_of[field.name]
    kind = shape.type_of(raw)
    column = raw_name(shape.raw.get_field_index(raw))
    if pa.types.is_string(kind):
        column = f"nullif(trim({column}), '')"
    if pa.types.is_floating(kind):
        column = f"(CASE WHEN isnan({column}) THEN NULL ELSE {column} END)"

    family = family_of(kind)
    if family not in READABLE[field.kind]:
        wanted = " or ".join(sorted(READABLE[field.kind]))
        raise SchemaMismatch(f"{where}: column {raw!r} ({field.name}) is {kind}; wanted {wanted}. Fix the export.")
    if field.kind is Kind.MONEY and family == "decimal" and kind.scale <= 2:
        family = "cents"
    cast = BUILDERS[field.kind](field.name, column, family, timezone)

    if field.name == "label_timestamp" and schema.LABEL.column in shape.name_of:
        # A time without a label is forgotten, so it may be anything: exports write the year 9999 for "not yet".
        known = f"{quoted(alias(schema.LABEL.column))} IS NOT NULL"
        far = f"{field.name}_out_of_range"
        problems = [(f"{why} AND {known}" if reason == far else why, reason) for why, reason in cast.problems]
        return Cast(cast.steps, tuple(problems))
    return cast


def _carried(field: pa.Field, shape: Shape, schema: Schema) -> str:
    known = schema.CARRIED_TYPES.get(field.name)
    raw = shape.name_of.get(field.name) if known is not None else field.name
    place = shape.raw.get_field_index(raw) if raw is not None else -1
    if place < 0:
        return "NULL"
    column = raw_name(place)
    if known is not None:
        return f"TRY_CAST({column} AS {_CARRIED_SQL[known]})"
    return f"CAST({column} AS VARCHAR)" if pa.types.is_string(field.type) else column


def _case(branches: list[tuple[str, str]]) -> str:
    whens = " ".join(f"WHEN {condition} THEN {value}" for condition, value in branches)
    return f"CASE {whens} END" if whens else "CAST(NULL AS VARCHAR)"


def quoted(name: str) -> str:
    """An identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'
