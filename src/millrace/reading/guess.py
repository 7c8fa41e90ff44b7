"""Which raw column is which field of a workload: from names, and only where the values fit.

Fields and columns are paired by score, the best first, so that no column has two roles. What a field lacks is filled in
where that is safe (an id made of the row, one entity for all), and asked about where it is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from millrace.fields import Field, Kind
from millrace.reading.kinds import NO, YES
from millrace.reading.profile import Column
from millrace.workload import Schema

SURE, LIKELY, UNSURE = "sure", "likely", "unsure"
START: Final = "2024-01-01"
"""What a step is counted from where nobody knows."""
_TIME_NAME: Final = re.compile(
    r"(.*_)?(date|time|datetime|timestamp|ts|at|day|when|dt|epoch(_m?s)?|posted|datum|fecha|step|transactiondt)"
    r"(_.*)?|.*(date|time)"
)
_ID_NAME: Final = re.compile(r"(.*_)?(id|uuid|guid|key|no|nr|num|number|ref|reference)|.*id")
_EPOCHS: Final = (("s", 1e8, 1e10), ("ms", 1e11, 1e13), ("us", 1e14, 1e16), ("ns", 1e17, 1e19))
_CENTS: Final = re.compile(r"(.*_)?(cents|minor|minor_units|pennies|pence)(_.*)?")
_KNOWN: Final = {*YES, *NO}
_YES_WORDS: Final = re.compile(r"y(es)?|true|t|1|ja?|si|oui|s|positive|bad|confirmed.*")
_NUMBERS: Final = (Kind.MONEY, Kind.NUMBER, Kind.WHOLE)


@dataclass(frozen=True, slots=True)
class Role:
    """What one field of the workload is taken from."""

    field: str
    columns: tuple[str, ...]
    source: Mapping[str, Any] | str
    """As a columns document says it."""
    how_sure: str
    note: str = ""


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
        known = _known_names(schema)
        return {
            role.field: role.source
            for role in self.roles
            if not (isinstance(role.source, str) and known.get(role.source.upper()) == role.field)
        }


def guess(columns: Sequence[Column], schema: Schema) -> Guess:
    """Every field of the schema has a role or a question, but those that a source may lack."""
    wanted = [one for one in schema.FIELDS if not one.sql]
    pairs = sorted(
        ((_score(one, column, schema), -place, one, column) for one in wanted for place, column in enumerate(columns)),
        key=lambda pair: pair[:2],
        reverse=True,
    )
    taken: dict[str, Role] = {}
    used: set[str] = set()
    for score, _, one, column in pairs:
        if score > 0 and one.name not in taken and column.name not in used:
            role = _role(one, column, score, columns, used)
            taken[one.name] = role
            used.update(role.columns)

    roles = list(taken.values())
    questions: list[str] = []
    for one in wanted:
        found = taken.get(one.name) or _instead(one, schema)
        if found is not None and one.name not in taken:
            roles.append(found)
        if found is None and not (one.optional or (one.empty and one.name != schema.LABEL.column)):
            questions.append(f"{one.name}: COLUMN    # no column is surely {_what(one)}")
        elif found is not None and found.how_sure == UNSURE:
            questions.append(f"{one.name}: {flow(found.source)}    # {found.note or 'is this right?'}")
    return Guess(roles, questions, [column for column in columns if column.name not in used])


def _score(one: Field, column: Column, schema: Schema) -> float:
    """0: it cannot be. 3: it has the name. 2: a name like those. 1: the values alone fit."""
    if _known_names(schema).get(column.name.upper()) == one.name:
        return 3.0  # whatever its values are: those that cannot be read are rejected row by row
    if not column.filled or not _fits(one, column):
        return 0.0
    name = _plain(column.name)
    hint = getattr(schema, "HINTS", {}).get(one.name, "")
    if hint and (found := re.fullmatch(hint, name)):
        return 2.0 + (0.5 if found.lastindex else 0.0)  # the pattern's own group is the better name

    if one.name == "event_timestamp" and _TIME_NAME.fullmatch(name):
        return 1.9 if column.time else 1.2
    if one.name == schema.EVENT_ID and _ID_NAME.fullmatch(name) and column.distinct == column.rows:
        return 1.5
    return 0.5 if one.name == "event_timestamp" and column.time else 0.0


def _fits(one: Field, column: Column) -> bool:
    """Whether the values can be of the field's kind."""
    if one.kind is Kind.ID:
        return column.distinct >= 0.98 * column.rows and (column.whole or not column.numeric) and not column.time
    if one.kind is Kind.INSTANT:
        return column.time or (
            column.numeric and _counted(column) is not None and bool(_TIME_NAME.fullmatch(_plain(column.name)))
        )
    if one.kind is Kind.KEY:
        return not column.iso and not column.clock and (column.whole or not column.numeric)
    if one.kind is Kind.CLASS:
        return len(column.levels) == 2 or (len(column.levels) == 1 and column.examples[0].lower() in _KNOWN)
    if one.kind in _NUMBERS:
        return column.numeric
    return True


def _role(one: Field, column: Column, score: float, columns: Sequence[Column], used: set[str]) -> Role:
    source: dict[str, Any] = {"column": column.name}
    how_sure = SURE if score >= 3 else LIKELY if score >= 1.2 else UNSURE
    note = ""
    names: tuple[str, ...] = (column.name,)
    if one.kind is Kind.INSTANT:
        source, names, doubt = _time(column, columns, used)
        how_sure, note = (UNSURE, doubt) if doubt.endswith("?") else (how_sure, doubt)
    elif one.kind in _NUMBERS:
        source |= _number(one, column)
        if score >= 3:
            source.pop("negative", None)  # our own name promises our own meaning: such rows are rejected
    elif one.kind is Kind.CLASS:
        source |= _words(column)
        note = f"{source['positive'][0]!r} is 1" if "positive" in source else ""
    plain = column.name if set(source) == {"column"} else source
    return Role(one.name, names, plain, how_sure, note)


def _time(column: Column, columns: Sequence[Column], used: set[str]) -> tuple[dict[str, Any], tuple[str, ...], str]:
    """Source, columns, and a note; one that ends in a question mark is a doubt."""
    if column.numeric and not column.formats:
        counted = _counted(column) or {}
        note = f"counted from {counted['start']}, which the data do not say" if "start" in counted else ""
        return {"column": column.name} | counted, (column.name,), note

    doubt = ""
    days = {form.replace("%d", "D").replace("%m", "D").replace("%y", "Y").replace("%Y", "Y") for form in column.formats}
    if len(column.formats) > 1 and len(days) < len(column.formats):
        doubt = "is the day or the month first, or the year short?"
    form = column.formats[0] if column.formats else ""
    clock = next((one for one in columns if one.clock and one.name not in used), None)
    if clock is not None and "%H" not in form and "%I" not in form and (form or _is_date(column)):
        half = "%p" if re.search("[ap]m", clock.examples[0], re.IGNORECASE) else ""
        parts = clock.examples[0].count(":")
        shown = ("%I:%M" if half else "%H:%M") + (":%S" if parts > 1 else "") + (f" {half}" if half else "")
        whole = {"columns": [column.name, clock.name], "format": f"{form or '%Y-%m-%d'} {shown}"}
        return whole, (column.name, clock.name), doubt
    return ({"column": column.name, "format": form} if form else {"column": column.name}), (column.name,), doubt


def _is_date(column: Column) -> bool:
    return column.iso and all(len(text) == 10 for text in column.examples)


def _counted(column: Column) -> dict[str, Any] | None:
    """A number as a time: since 1970 by its size, else steps from a start that nobody told."""
    low, high = column.low or 0.0, column.high or 0.0
    for epoch, least, most in _EPOCHS:
        if least <= low and high <= most:
            return {"epoch": epoch}
    if low < 0 or high >= 1e9:
        return None
    name = _plain(column.name)
    unit = "day" if "day" in name else "hour" if "hour" in name or (column.whole and high < 20_000) else "second"
    return {"unit": unit, "start": START}


def _number(one: Field, column: Column) -> dict[str, Any]:
    decimal, thousands = column.marks
    found: dict[str, Any] = {} if decimal == "." else {"decimal": decimal}
    found |= {"thousands": thousands} if thousands else {}
    if one.kind is Kind.MONEY:
        cents = column.whole and bool(_CENTS.fullmatch(_plain(column.name)))
        found |= {"minor_units": True} if cents else {"round": True} if column.precise else {}
    if column.negative and one.minimum == 0:
        found["negative"] = "turn" if column.negative > column.filled / 2 else "drop"
    return found


def _words(column: Column) -> dict[str, Any]:
    levels = list(column.levels)
    if len(levels) != 2 or {level.lower() for level in levels} <= _KNOWN:
        return {}
    rarer = levels[-1]
    yes = next((level for level in levels if _YES_WORDS.fullmatch(level.lower())), rarer)
    return {"positive": [yes], "negative": [level for level in levels if level != yes]}


def _instead(one: Field, schema: Schema) -> Role | None:
    """What stands for a field that no column has: an id of the row; one entity for all, but not for the first."""
    if one.name == schema.EVENT_ID:
        return Role(one.name, (), {"of_row": True}, SURE, "made of the row")
    keys = [entity.key for entity in schema.ENTITIES if not entity.parts and not entity.constant]
    if one.name in keys[1:]:
        return Role(one.name, (), {"constant": "all"}, LIKELY, "no column has it: one for all")
    return None


def _known_names(schema: Schema) -> dict[str, str]:
    names = {one.name.upper(): one.name for one in schema.FIELDS}
    return {alias.upper(): ours for alias, ours in schema.ALIASES.items()} | names


def _plain(name: str) -> str:
    """`Betrag (EUR)`, `nameOrig`, `Txn #` → betrag_eur, name_orig, txn_no."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).replace("#", " no ")
    return re.sub(r"\W+", "_", spaced.lower()).strip("_")


def _what(one: Field) -> str:
    return f"{one.name} ({one.kind}{', ' + one.unit if one.unit else ''})"


def flow(source: Mapping[str, Any] | str) -> str:
    """A source as one line of YAML."""
    import yaml  # the command alone shows it

    return (
        str(yaml.safe_dump(source, default_flow_style=True, allow_unicode=True, sort_keys=False, width=1000))
        .replace("\n...\n", "")
        .strip()
    )
