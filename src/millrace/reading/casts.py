"""Raw columns to typed ones, in SQL: each value is read or it is null, and FAULT says why.

Everything DuckDB can read comes in: text of a CSV, or the integers, floats, decimals, booleans and timestamps of a
Parquet file. How one column is read is `kinds.py`'s; rules about values that could be read are `checks.py`'s. Raw and
carried columns go by number, so that no name of a source can be one of ours.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from millrace.errors import SchemaMismatch
from millrace.fields import Field, Kind
from millrace.reading.columns import Shape
from millrace.reading.document import FieldSource, scalar_text
from millrace.reading.kinds import BUILDERS, READABLE, SQL_TYPES, family_of
from millrace.reading.steps import Cast, How, alias
from millrace.sql import literal, quoted
from millrace.workload import Schema

FAULT: Final = "__fault"
"""Column with the reason that a row cannot be read for; null for the others."""
BROKEN: Final = "__broken"
"""Column with the first of the workload's rules that a row breaks; null for the others."""
LABEL_DELAY: Final = "__label_delay_us"
PLACE: Final = "__place"
"""Column with the number of a row in `raw`: DuckDB's threads may hand rows on in another order than they came in."""
_STEPPED: Final = frozenset({"text", "integer", "float", "decimal"})
_CARRIED_SQL: Final = {
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.string(): "VARCHAR",
}


def numbered(table: pa.Table) -> pa.Table:
    """Raw rows as the relation `raw` of `cast_sql`: columns by number, and the place of each row."""
    columns = table.rename_columns([_raw_name(place) for place in range(table.num_columns)])
    return columns.append_column(PLACE, pa.array(np.arange(len(table))))


def _raw_name(place: int) -> str:
    return f"__raw_{place}"


def carried_name(place: int) -> str:
    """Name of a carried column until it is written."""
    return f"__carried_{place}"


def cast_sql(shape: Shape, schema: Schema, carried: pa.Schema, where: str) -> str:
    """SELECT over the relation `raw` (`numbered`), in its order: the fields typed, carried columns, LABEL_DELAY, FAULT,
    BROKEN.

    Carried columns are those of `carried`; one that this file lacks is null. Raises SchemaMismatch when a column has
    a type that no value of ours is ever written in.
    """
    given = [field for field in schema.FIELDS if shape.gives(field)]
    casts = [_cast(field, shape, schema, where) for field in given]
    steps = [f"{expression} AS {quoted(alias)}" for cast in casts for alias, expression in cast.steps]
    problems = [problem for cast in casts for problem in cast.problems]
    typed = [f"{quoted(alias(field.name))} AS {quoted(field.name)}" for field in given]
    carried_from = shape.carried_from
    others = [
        f"{_carried(field, shape, schema, carried_from)} AS {carried_name(place)}"
        for place, field in enumerate(carried)
    ]
    kept = [carried_name(place) for place in range(len(carried))]
    row = _of_row(schema, shape, [carried_name(place) for place, one in enumerate(carried) if one.name in carried_from])

    made = [_made(field, shape, row) for field in schema.FIELDS]

    fields = [quoted(field.name) for field in schema.FIELDS]
    label = schema.LABEL
    when = f"coalesce(label_timestamp, event_timestamp + INTERVAL {label.delay_days} DAY)"
    known = f"CASE WHEN {quoted(label.column)} IS NOT NULL THEN {when} END AS label_timestamp"
    broken = _case([(f"({condition})", literal(reason)) for reason, condition in schema.RULES.items()])
    delay = f"epoch_us(label_timestamp) - epoch_us(event_timestamp) AS {LABEL_DELAY}"

    return f"""
        WITH read AS (SELECT {", ".join(["*", *steps])} FROM raw),
        typed AS (SELECT {", ".join([*typed, *others])}, {PLACE},
            {_case([(condition, literal(reason)) for condition, reason in problems])} AS {FAULT} FROM read),
        made AS (SELECT {", ".join([*made, *kept, FAULT, PLACE])} FROM typed),
        complete AS (SELECT * REPLACE ({known}) FROM made)
        SELECT {", ".join([*fields, *kept])}, {delay}, {FAULT}, {broken} AS {BROKEN} FROM complete
        ORDER BY {PLACE}
        """


def _made(field: Field, shape: Shape, row: str) -> str:
    """A field that the file has, or what stands for it: null, the SQL of the workload, or a hash of the row."""
    if shape.gives(field):
        return quoted(field.name)
    source = shape.source(field.name)
    made = row if source is not None and source.of_row else field.sql or "NULL"
    return f"TRY_CAST(({made}) AS {SQL_TYPES[field.kind]}) AS {quoted(field.name)}"


def _of_row(schema: Schema, shape: Shape, carried: list[str]) -> str:
    """63 bits of a hash over all that a row says but its label, the same whatever the file and its format."""
    unlike = {schema.EVENT_ID, schema.LABEL.column, "label_timestamp"}
    said = [quoted(one.name) for one in schema.FIELDS if one.name not in unlike and shape.gives(one)]
    texts = [f"coalesce(CAST({name} AS VARCHAR), '')" for name in [*said, *carried]]
    return f"CAST(md5_number_lower(concat_ws(chr(31), {', '.join(texts)})) >> 1 AS BIGINT)"


def _cast(field: Field, shape: Shape, schema: Schema, where: str) -> Cast:
    source = shape.source(field.name) or FieldSource(column=shape.name_of.get(field.name, field.name))
    column, kind = _raw_value(field, shape, source)
    family = family_of(kind)
    if family not in READABLE[field.kind] | (_STEPPED if source.epoch or source.unit else frozenset()):
        raise SchemaMismatch(f"{where}: {_wrong_type(field, source, kind)}")
    if field.kind is Kind.MONEY and family == "decimal" and kind.scale <= 2 and not source.minor_units:
        family = "cents"
    cast = BUILDERS[field.kind](field.name, column, family, How.of(source, shape.document.read))

    if field.name == "label_timestamp" and _has(schema.LABEL.column, shape, schema):
        # A time without a label is forgotten, so it may be anything: exports write the year 9999 for "not yet".
        known = f"{quoted(alias(schema.LABEL.column))} IS NOT NULL"
        far = f"{field.name}_out_of_range"
        problems = [(f"{why} AND {known}" if reason == far else why, reason) for why, reason in cast.problems]
        return Cast(cast.steps, tuple(problems))
    return cast


def _has(name: str, shape: Shape, schema: Schema) -> bool:
    return any(field.name == name and shape.gives(field) for field in schema.FIELDS)


def _raw_value(field: Field, shape: Shape, source: FieldSource) -> tuple[str, pa.DataType]:
    """What a field is read from: SQL over `raw`, and the type of its values."""
    if source.constant is not None:
        return literal(scalar_text(source.constant)), pa.string()
    if source.columns:
        between = " " if field.kind is Kind.INSTANT else "|"
        parts = [f"nullif(trim(CAST({_place(shape, name)} AS VARCHAR)), '')" for name in source.columns]
        return f"nullif(concat_ws('{between}', {', '.join(parts)}), '')", pa.string()

    raw = shape.name_of[field.name]
    kind = shape.type_of(raw)
    column = _place(shape, raw)
    if pa.types.is_string(kind):
        column = f"nullif(trim({column}), '')"
    if pa.types.is_floating(kind):
        column = f"(CASE WHEN isnan({column}) THEN NULL ELSE {column} END)"
    return column, kind


def _place(shape: Shape, raw: str) -> str:
    return _raw_name(shape.raw.get_field_index(raw))


def _wrong_type(field: Field, source: FieldSource, kind: pa.DataType) -> str:
    wanted = " or ".join(sorted(READABLE[field.kind]))
    told = f"column {source.column!r} ({field.name}) is {kind}; wanted {wanted}."
    if field.kind is Kind.INSTANT and family_of(kind) in _STEPPED:
        return (
            f"{told} Say what the number is: columns: {{{field.name}: {{column: {source.column}, epoch: s}}}} (or ms, "
            f"us, ns), or {{column: {source.column}, unit: hour, start: 2024-01-01}}."
        )
    return f"{told} Fix the export."


def _carried(field: pa.Field, shape: Shape, schema: Schema, carried_from: dict[str, str]) -> str:
    known = schema.CARRIED_TYPES.get(field.name)
    raw = shape.name_of.get(field.name) if known is not None else carried_from.get(field.name)
    place = shape.raw.get_field_index(raw) if raw is not None else -1
    if place < 0:
        return "NULL"
    column = _raw_name(place)
    if known is not None:
        return f"TRY_CAST({column} AS {_CARRIED_SQL[known]})"
    return f"CAST({column} AS VARCHAR)" if pa.types.is_string(field.type) else column


def _case(branches: list[tuple[str, str]]) -> str:
    whens = " ".join(f"WHEN {condition} THEN {value}" for condition, value in branches)
    return f"CASE {whens} END" if whens else "CAST(NULL AS VARCHAR)"
