"""Which raw column is which field of a workload: from names, and only where the values fit.

Fields and columns are paired by score, the best first, so that no column has two roles. What a field lacks is filled in
where that is safe (an id made of the row, one entity for all), and asked about where it is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from millrace.fields import Field, Kind
from millrace.reading.columns import known_names
from millrace.reading.profile import Column
from millrace.reading.roles import (
    KNOWN,
    LIKELY,
    NUMBERS,
    OUR_NAME,
    SURE,
    TIME_NAME,
    UNSURE,
    Role,
    counted,
    flow,
    plain,
    role_of,
)
from millrace.workload import Schema

_ID_NAME: Final = re.compile(r"(.*_)?(id|uuid|guid|key|no|nr|num|number|ref|reference)|.*id")


@dataclass(frozen=True, slots=True)
class Guess:
    """Roles by field, and what is open."""

    roles: list[Role]
    questions: list[str] = field(default_factory=list)
    """Lines of a columns document that somebody must settle, each with the reason behind `#`."""
    others: list[Column] = field(default_factory=list)
    """Columns that no field is taken from."""

    def columns(self, schema: Schema) -> dict[str, Any]:
        """The `columns` of a document; a field that its name alone explains needs no line."""
        known = known_names(schema)
        return {
            role.field: role.source
            for role in self.roles
            if not (isinstance(role.source, str) and known.get(role.source.upper()) == role.field)
        }


def guess(columns: Sequence[Column], schema: Schema) -> Guess:
    """Every field of the schema has a role or a question, but those that a source may lack."""
    wanted = [one for one in schema.FIELDS if not one.sql]
    found = _paired(wanted, columns, schema)
    used = {name for role in found.values() for name in role.columns}
    for one in wanted:
        instead = _instead(one, schema)
        if one.name not in found and instead is not None:
            found[one.name] = instead

    asked = [_question(one, found.get(one.name), schema) for one in wanted]
    others = [column for column in columns if column.name not in used]
    return Guess(list(found.values()), [question for question in asked if question], others)


def _paired(wanted: Sequence[Field], columns: Sequence[Column], schema: Schema) -> dict[str, Role]:
    """Field → its role, the best pairs first; of pairs of one score, the column that stands first."""
    scored = [
        (_score(one, column, schema), place, one, column) for one in wanted for place, column in enumerate(columns)
    ]
    found: dict[str, Role] = {}
    used: set[str] = set()
    for score, _, one, column in sorted(scored, key=lambda pair: (-pair[0], pair[1])):
        if score == 0 or one.name in found or column.name in used:
            continue
        free = [other for other in columns if other.name not in used]
        role = found[one.name] = role_of(one, column, score, free)
        used.update(role.columns)
    return found


def _question(one: Field, role: Role | None, schema: Schema) -> str:
    """The line that somebody must settle; empty where nothing is open."""
    if role is not None and role.how_sure == UNSURE:
        return f"{one.name}: {flow(role.source)}    # {role.note or 'is this right?'}"
    if role is not None:
        return ""

    may_lack = one.optional or (one.empty and one.name != schema.LABEL.column)
    return "" if may_lack else f"{one.name}: COLUMN    # no column is surely {_what(one)}"


def _score(one: Field, column: Column, schema: Schema) -> float:
    """0: it cannot be. OUR_NAME: it has the name. From 2 on: a name like those. Below: the values fit, little else."""
    if known_names(schema).get(column.name.upper()) == one.name:
        return OUR_NAME  # whatever its values are: those that cannot be read are rejected row by row
    if not column.filled or not _fits(one, column):
        return 0.0

    name = plain(column.name)
    hint = getattr(schema, "HINTS", {}).get(one.name, "")  # packages may lack it
    hinted = re.fullmatch(hint, name) if hint else None
    if hinted is not None:
        return 2.5 if hinted.lastindex else 2.0  # the pattern's own group is the better name

    if one.name == "event_timestamp":
        if TIME_NAME.fullmatch(name):
            return 1.9 if column.time else 1.2
        return 0.5 if column.time else 0.0
    is_id = one.name == schema.EVENT_ID and _ID_NAME.fullmatch(name)
    return 1.5 if is_id and column.distinct == column.rows else 0.0


def _fits(one: Field, column: Column) -> bool:
    """Whether the values can be of the field's kind."""
    whole_or_text = column.whole or not column.numeric
    if one.kind is Kind.ID:
        return column.distinct >= 0.98 * column.rows and whole_or_text and not column.time
    if one.kind is Kind.INSTANT:
        return column.time or _is_count_of_time(column)
    if one.kind is Kind.KEY:
        return whole_or_text and not column.iso and not column.clock
    if one.kind is Kind.CLASS:
        return len(column.levels) == 2 or (len(column.levels) == 1 and column.examples[0].lower() in KNOWN)
    if one.kind in NUMBERS:
        return column.numeric
    return True


def _is_count_of_time(column: Column) -> bool:
    """Whether it has the name of a time and numbers that can be counted from somewhere."""
    named = bool(TIME_NAME.fullmatch(plain(column.name)))
    return named and column.numeric and counted(column) is not None


def _instead(one: Field, schema: Schema) -> Role | None:
    """What stands for a field that no column has: an id of the row; one entity for all, but not for the first."""
    if one.name == schema.EVENT_ID:
        return Role(one.name, (), {"of_row": True}, SURE, "made of the row")
    keys = [entity.key for entity in schema.ENTITIES if not entity.parts and not entity.constant]
    if one.name in keys[1:]:
        return Role(one.name, (), {"constant": "all"}, LIKELY, "no column has it: one for all")
    return None


def _what(one: Field) -> str:
    return f"{one.name} ({one.kind}{', ' + one.unit if one.unit else ''})"
