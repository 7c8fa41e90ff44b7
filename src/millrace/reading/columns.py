"""Which raw column is which: the columns document, aliases, what is carried.

SchemaMismatch names what is missing, the nearest column, and what would say it.
"""

from __future__ import annotations

import base64
import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import pyarrow as pa

from millrace.errors import SchemaMismatch
from millrace.extended import Extended
from millrace.fields import Field
from millrace.lake.manifest import content_id
from millrace.reading.document import EMPTY, ColumnsDocument, FieldSource
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
    """Our name → its raw name, of fields that come from one column."""
    known: Mapping[str, pa.DataType]
    """Carried columns that have a fixed type."""
    ours: frozenset[str] = frozenset()
    """Names that no carried column may have."""
    document: ColumnsDocument = EMPTY

    def type_of(self, name: str) -> pa.DataType:
        """The type of the values of a raw column, whatever its encoding."""
        return _plain(self.raw.field(name).type)

    def source(self, name: str) -> FieldSource | None:
        """What the document says of one of our fields."""
        return self.document.columns.get(name)

    def gives(self, field: Field) -> bool:
        """Whether a field has values here, from a column, several or a constant; not one that is made of the row."""
        source = self.source(field.name)
        told = source is not None and (source.constant is not None or bool(source.columns))
        return told or field.name in self.name_of

    @property
    def carried(self) -> pa.Schema:
        """Columns that are kept but mean nothing to us, under their own names; known ones have a fixed type."""
        known = [pa.field(name, kind) for name, kind in self.known.items() if name in self.name_of]
        others = [pa.field(name, _carried_type(self.raw.field(raw).type)) for name, raw in self.carried_from.items()]
        return pa.schema(known + others)

    @property
    def carried_from(self) -> dict[str, str]:
        """Name of a carried column of no fixed type → its raw name; one that is called as a field of ours is not."""
        read = {name for source in self.document.columns.values() for name in source.names} | set(self.name_of.values())
        return {f"{name}_raw" if name in self.ours else name: name for name in self.raw.names if name not in read}


def resolve(raw: pa.Schema, schema: Schema, document: ColumnsDocument, where: str) -> Shape:
    """Match raw columns to ours: the document first, then our names and the public ones in any case."""
    folded = [name.upper() for name in raw.names]
    twice = sorted({name for name in raw.names if folded.count(name.upper()) > 1})
    if twice:
        raise SchemaMismatch(f"{where}: columns {twice} appear more than once. Rename them in the export.")

    told = {source.column: ours for ours, source in document.columns.items() if source.column}
    settled = {name for source in document.columns.values() for name in source.names}
    # A file that lacks the named column may have ours: exports change in the middle of a year.
    here = {ours for ours, one in document.columns.items() if not one.column or one.column in raw.names}
    by_upper = known_names(schema)
    name_of: dict[str, str] = {}
    for name in raw.names:
        ours = told.get(name)
        if ours is None and name not in settled:
            ours = by_upper.get(name.upper())
            ours = None if ours in here else ours
        if ours is None:
            continue
        if ours in name_of:
            both = sorted([name_of[ours], name])
            raise SchemaMismatch(f"{where}: columns {both} both mean {ours!r}. Drop one of them, or map another name.")
        name_of[ours] = name

    fields = frozenset(field.name for field in schema.FIELDS)
    shape = Shape(raw, name_of, schema.CARRIED_TYPES, fields, document)
    missing = [field.name for field in schema.FIELDS if _lacks(shape, field)]
    if missing:
        raise SchemaMismatch(_missing(missing, raw.names, set(name_of.values()), where))
    lost = sorted({name for source in document.columns.values() for name in source.columns} - set(raw.names))
    if lost:
        raise SchemaMismatch(f"{where}: columns {lost} are to be joined and missing; found {list(raw.names)}.")
    return shape


def _lacks(shape: Shape, field: Field) -> bool:
    source = shape.source(field.name)
    if shape.gives(field) or (source is not None and (source.absent or source.of_row)):
        return False
    return not (field.optional or field.sql)


def lacking(schema: Schema, names: Collection[str]) -> Schema:
    """The schema of a source that may lack these fields."""
    fields = tuple(replace(one, optional=True) if one.name in names else one for one in schema.FIELDS)
    return cast(Schema, Extended(schema, FIELDS=fields))


def matched(names: Sequence[str], schema: Schema, document: ColumnsDocument) -> int:
    """How many of `names` mean something to us; tells a right delimiter from a wrong one."""
    told = {name for source in document.columns.values() for name in source.names}
    by_upper = known_names(schema)
    return sum(name in told or name.upper() in by_upper for name in names)


def idle_columns(document: ColumnsDocument, found: set[str]) -> list[str]:
    """Raw columns that the document names and no file has: typing errors."""
    return sorted({name for source in document.columns.values() for name in source.names} - found)


def named(names: Iterable[str]) -> list[str]:
    """Names of a file's columns; one without a name, which is how pandas writes its index, gets one by its place."""
    return [name.strip() or f"unnamed_{place}" for place, name in enumerate(names)]


def rules_id(schema: Schema) -> str:
    """Changes when a workload reads the same bytes in another way."""
    types = {name: str(kind) for name, kind in schema.CARRIED_TYPES.items()}
    rules = [repr(schema.FIELDS), dict(schema.ALIASES), types, repr(schema.ENTITIES), repr(schema.LABEL)]
    return content_id({"version": schema.VERSION, "fields": rules, "rules": dict(schema.RULES)})


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


def known_names(schema: Schema) -> dict[str, str]:
    """Names in upper case that need no explanation → ours: the public ones, and our own."""
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
    advice = f" If the nearest name is it, map it: {' '.join(hints)}." if hints else ""
    advice += " `millrace inspect` proposes a columns.yaml that says more: constants, formats, what is not there."
    return f"{where}: {columns} missing; found {list(found)}.{advice}"
