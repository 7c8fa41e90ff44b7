"""Which raw column is which: column map, aliases, what is carried; SchemaMismatch names the nearest column."""

from __future__ import annotations

import base64
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from millrace.errors import InvalidInput, SchemaMismatch
from millrace.lake.manifest import content_id
from millrace.workload import Schema

_KEPT = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_timestamp,
    pa.types.is_date32,
    pa.types.is_decimal128,
    pa.types.is_binary,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of one raw file."""

    raw: pa.Schema
    """All columns as they are in the file; those of a delimited file are strings."""
    name_of: dict[str, str]
    """Our name → its raw name. Fields that a source may lack are absent."""
    known: Mapping[str, pa.DataType]
    """Carried columns that have a fixed type."""

    def type_of(self, name: str) -> pa.DataType:
        """The type of the values of a raw column, whatever its encoding."""
        return _plain(self.raw.field(name).type)

    @property
    def carried(self) -> pa.Schema:
        """Columns that are kept but mean nothing to us, under their own names; known ones have a fixed type."""
        mapped = set(self.name_of.values())
        known = [pa.field(name, kind) for name, kind in self.known.items() if name in self.name_of]
        return pa.schema(known + [pa.field(f.name, _carried_type(f.type)) for f in self.raw if f.name not in mapped])


def resolve(raw: pa.Schema, schema: Schema, column_map: Mapping[str, str], where: str) -> Shape:
    """Match raw columns to ours: the column map first, then our names and the public ones in any case."""
    by_upper = _by_upper(schema)
    folded = [name.upper() for name in raw.names]
    twice = sorted({name for name in raw.names if folded.count(name.upper()) > 1})
    if twice:
        raise SchemaMismatch(f"{where}: columns {twice} appear more than once. Rename them in the export.")

    name_of: dict[str, str] = {}
    for name in raw.names:
        ours = column_map.get(name) or (by_upper.get(name.upper()) if name not in column_map else None)
        if ours is None:
            continue
        if ours in name_of:
            both = sorted([name_of[ours], name])
            raise SchemaMismatch(f"{where}: columns {both} both mean {ours!r}. Drop one of them, or map another name.")
        name_of[ours] = name

    missing = [name for name in required(schema) if name not in name_of]
    if missing:
        raise SchemaMismatch(_missing(missing, raw.names, set(name_of.values()), where))

    return Shape(raw, name_of, schema.CARRIED_TYPES)


def required(schema: Schema) -> list[str]:
    """Fields that a source must have."""
    return [field.name for field in schema.FIELDS if not field.optional and not field.sql]


def matched(names: Sequence[str], schema: Schema, column_map: Mapping[str, str]) -> int:
    """How many of `names` mean something to us; tells a right delimiter from a wrong one."""
    by_upper = _by_upper(schema)
    return sum(name in column_map or name.upper() in by_upper for name in names)


def named(names: Iterable[str]) -> list[str]:
    """Names of a file's columns; one without a name, which is how pandas writes its index, gets one by its place."""
    return [name.strip() or f"unnamed_{place}" for place, name in enumerate(names)]


def rules_id(schema: Schema) -> str:
    """Changes when a workload reads the same bytes in another way."""
    types = {name: str(kind) for name, kind in schema.CARRIED_TYPES.items()}
    rules = [repr(schema.FIELDS), dict(schema.ALIASES), types, repr(schema.ENTITIES), repr(schema.LABEL)]
    return content_id({"version": schema.VERSION, "fields": rules, "rules": dict(schema.RULES)})


def check_column_map(column_map: Mapping[str, str], schema: Schema) -> None:
    """Raises InvalidInput when a target is not one of our names or is named twice."""
    ours_all = _ours(schema)
    targets = list(column_map.values())
    for raw, ours in column_map.items():
        if ours not in ours_all:
            raise InvalidInput(f"column map {raw}={ours}: {ours!r} is none of our columns {sorted(ours_all)}")
        if targets.count(ours) > 1:
            froms = [key for key, value in column_map.items() if value == ours]
            raise InvalidInput(f"column map: {froms} all go to {ours!r}; wanted one raw column for each of ours")


def unify(schemas: Iterable[pa.Schema], known_types: Iterable[str]) -> pa.Schema:
    """One schema of carried columns for all files: the known ones, then the others in order of name.

    Types that differ and cannot be widened become text; so does a column that is empty in every file.
    """
    types: dict[str, pa.DataType] = {}
    for item in (item for schema in schemas for item in schema):
        types[item.name] = _wider(types[item.name], item.type) if item.name in types else item.type
    known = [name for name in known_types if name in types]
    others = sorted(set(types) - set(known))
    return pa.schema([pa.field(name, _plain(types[name])) for name in known + others])


def encode_schema(schema: pa.Schema) -> str:
    """A schema as text, for the index."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def decode_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _ours(schema: Schema) -> set[str]:
    return {field.name for field in schema.FIELDS} | set(schema.CARRIED_TYPES)


def _by_upper(schema: Schema) -> dict[str, str]:
    public = {name.upper(): ours for name, ours in schema.ALIASES.items()}
    return public | {name.upper(): name for name in _ours(schema)}


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one.equals(other):
        return one
    try:
        pair = [pa.schema([pa.field("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(pair, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of a value, whatever its encoding; a column of nothing but nulls is text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return pa.string()
    return kind


def _carried_type(kind: pa.DataType) -> pa.DataType:
    """Plain values keep their type; lists, structs, durations and the like are carried as text.

    A column without a value has the type of the other files'.
    """
    if pa.types.is_null(kind):
        return kind
    kind = _plain(kind)
    return kind if any(keeps(kind) for keeps in _KEPT) else pa.string()


def _missing(missing: Sequence[str], found: Sequence[str], taken: set[str], where: str) -> str:
    free = [name for name in found if name not in taken]
    hints = []
    for name in missing:
        nearest = difflib.get_close_matches(name, free, n=1, cutoff=0.0)
        if nearest:
            hints.append(f"--column-map {nearest[0]}={name}")
    columns = f"column {missing[0]!r} is" if len(missing) == 1 else f"columns {list(missing)} are"
    advice = f" If the nearest name is it, map it: {' '.join(hints)}." if hints else " Fix the export."
    return f"{where}: {columns} missing; found {list(found)}.{advice}"
