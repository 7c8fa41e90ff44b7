"""Whether a columns document fits a workload: its fields, the options that their kinds have, entities and names."""

from __future__ import annotations

from collections import Counter
from typing import Final

from millrace.errors import ConfigError
from millrace.fields import Field, Kind
from millrace.reading.document import Aggregate, ColumnsDocument, FieldSource
from millrace.workload import Schema

_TIMES: Final = ("format", "epoch", "unit", "start")
_NUMBERS: Final = ("decimal", "thousands", "negative")
OPTIONS: Final = {
    Kind.ID: ("columns", "of_row"),
    Kind.INSTANT: ("columns", *_TIMES),
    Kind.KEY: ("columns",),
    Kind.MONEY: (*_NUMBERS, "minor_units", "round"),
    Kind.NUMBER: _NUMBERS,
    Kind.WHOLE: _NUMBERS,
    Kind.CLASS: ("positive", "negative"),
    Kind.TEXT: ("columns",),
}
"""What may be said of a field beside `column`, `constant` and `absent`, by its kind."""


def require_fit(document: ColumnsDocument, schema: Schema, where: str = "columns") -> None:
    """Raises ConfigError naming the field, what it got and what was wanted."""
    fields = {field.name: field for field in schema.FIELDS}
    for name, source in document.columns.items():
        if name in fields:
            _require_options(fields[name], source, f"{where}: columns.{name}")
        elif name not in schema.CARRIED_TYPES:
            ours = sorted({*fields, *schema.CARRIED_TYPES})
            raise ConfigError(f"{where}: columns.{name}: {name!r} is none of our columns {ours}")

    taken = Counter(name for source in document.columns.values() for name in source.names if source.column)
    twice = next((name for name, count in taken.items() if count > 1), None)
    if twice is not None:
        both = sorted(ours for ours, source in document.columns.items() if twice == source.column)
        raise ConfigError(f"{where}: {both} all come from {twice!r}; wanted one raw column for each of ours")

    _require_features(document, schema, where)
    entities = [entity.name for entity in schema.ENTITIES]
    for name, aggregate in document.aggregates.items():
        _require_aggregate(aggregate, entities, set(fields), f"{where}: aggregates.{name}")


def _require_options(field: Field, source: FieldSource, where: str) -> None:
    given = source.model_dump(exclude_defaults=True)
    strange = sorted(set(given) - {"column", "constant", "absent", *OPTIONS[field.kind]})
    if strange:
        options = ", ".join(("column", "constant", "absent", *OPTIONS[field.kind]))
        raise ConfigError(f"{where}.{strange[0]}: a field of kind {field.kind} has no such option; it has {options}")

    words = isinstance(source.negative, tuple)
    if field.kind is Kind.CLASS and not words:
        raise ConfigError(f"{where}.negative is {source.negative!r}; wanted the texts of 0, such as [N]")
    if field.kind is not Kind.CLASS and words and source.negative:
        raise ConfigError(f"{where}.negative is {list(source.negative)}; wanted drop, keep or turn")
    if source.negative == "keep" and field.minimum is not None and field.minimum >= 0:
        raise ConfigError(
            f"{where}.negative is 'keep', but every {field.name} is at least {field.minimum:g}: the workload's "
            "features are made for that; wanted drop (such rows are rejected) or turn (their size is taken)"
        )
    if source.absent and not (field.empty or field.optional or field.sql):
        raise ConfigError(f"{where}.absent: every event has a {field.name}; name its column, or a constant")


def _require_features(document: ColumnsDocument, schema: Schema, where: str) -> None:
    entities = {entity.name for entity in schema.ENTITIES}
    ours = {field.name for field in schema.FIELDS}
    for name, feature in document.features.items():
        if not name.isidentifier() or name in ours:
            raise ConfigError(f"{where}: features.{name}: wanted a name of letters, digits and _ that no field has")
        if feature.entity and feature.entity not in entities:
            raise ConfigError(
                f"{where}: features.{name}.entity is {feature.entity!r}; wanted one of {sorted(entities)}"
            )


def _require_aggregate(aggregate: Aggregate, entities: list[str], fields: set[str], where: str) -> None:
    if not where.rpartition(".")[2].isidentifier() or where.rpartition(".")[2] in fields:
        raise ConfigError(f"{where}: wanted a name of letters, digits and _ that no field has")
    if aggregate.over not in entities:
        raise ConfigError(f"{where}.over is {aggregate.over!r}; wanted one of {entities}")
