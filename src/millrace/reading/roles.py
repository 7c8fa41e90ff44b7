"""What a field would be taken from: the options with which a column's values are read, and how sure that is.

A field, a column and the score of the two in, a `Role` out. Which column goes with which field is `guess.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from millrace.fields import Field, Kind
from millrace.reading.kinds import NO, YES
from millrace.reading.profile import Column

SURE, LIKELY, UNSURE = "sure", "likely", "unsure"
OUR_NAME: Final = 3.0
"""Score of a column that is called as the field is."""
START: Final = "2024-01-01"
"""What a step is counted from where nobody knows."""
TIME_NAME: Final = re.compile(
    r"(.*_)?(date|time|datetime|timestamp|ts|at|day|when|dt|epoch(_m?s)?|posted|datum|fecha|step|transactiondt)"
    r"(_.*)?|.*(date|time)"
)
_EPOCHS: Final = (("s", 1e8, 1e10), ("ms", 1e11, 1e13), ("us", 1e14, 1e16), ("ns", 1e17, 1e19))
_CENTS: Final = re.compile(r"(.*_)?(cents|minor|minor_units|pennies|pence)(_.*)?")
KNOWN: Final = {*YES, *NO}
_YES_WORDS: Final = re.compile(r"y(es)?|true|t|1|ja?|si|oui|s|positive|bad|confirmed.*")
NUMBERS: Final = (Kind.MONEY, Kind.NUMBER, Kind.WHOLE)


@dataclass(frozen=True, slots=True)
class Role:
    """What one field of the workload is taken from."""

    field: str
    columns: tuple[str, ...]
    source: Mapping[str, Any] | str
    """As a columns document says it."""
    how_sure: str
    note: str = ""


def role_of(one: Field, column: Column, score: float, free: Sequence[Column]) -> Role:
    """The role of a column; a time may take a second one of the `free` columns along."""
    how_sure = SURE if score >= OUR_NAME else LIKELY if score >= 1.2 else UNSURE
    if one.kind is Kind.INSTANT:
        return _time(one, column, how_sure, free)

    options: dict[str, Any] = {}
    note = ""
    if one.kind in NUMBERS:
        options = _number(one, column)
        if score >= OUR_NAME:
            options.pop("negative", None)  # our own name promises our own meaning: such rows are rejected
    elif one.kind is Kind.CLASS:
        options = _words(column)
        note = f"{options['positive'][0]!r} is 1" if options else ""
    return Role(one.name, (column.name,), _source(column, options), how_sure, note)


def _source(column: Column, options: Mapping[str, Any]) -> Mapping[str, Any] | str:
    return {"column": column.name, **options} if options else column.name


def _time(one: Field, column: Column, how_sure: str, free: Sequence[Column]) -> Role:
    if column.numeric and not column.formats:
        steps = counted(column) or {}
        note = f"counted from {steps['start']}, which the data do not say" if "start" in steps else ""
        return Role(one.name, (column.name,), _source(column, steps), how_sure, note)

    note = ""
    if _reads_both_ways(column.formats):
        how_sure, note = UNSURE, "is the day or the month first, or the year short?"
    form = column.formats[0] if column.formats else ""
    clock = next((other for other in free if other.clock), None)
    if clock is None or not _is_date(column):
        return Role(one.name, (column.name,), _source(column, {"format": form} if form else {}), how_sure, note)

    names = (column.name, clock.name)
    joined = {"columns": list(names), "format": f"{form or '%Y-%m-%d'} {_clock_format(clock.examples[0])}"}
    return Role(one.name, names, joined, how_sure, note)


def _reads_both_ways(formats: Sequence[str]) -> bool:
    """Whether two formats that read every value differ in what is the day and what the month, or in the year."""
    alike = {re.sub("%[dm]", "D", form).replace("%Y", "%y") for form in formats}
    return len(alike) < len(formats)


def _clock_format(example: str) -> str:
    """The `strptime` format of a time of day."""
    seconds = ":%S" if example.count(":") > 1 else ""
    if re.search("[ap]m", example, re.IGNORECASE):
        return f"%I:%M{seconds} %p"
    return f"%H:%M{seconds}"


def _is_date(column: Column) -> bool:
    """Whether its times are days, without a time of day."""
    if column.formats:
        return "%H" not in column.formats[0] and "%I" not in column.formats[0]
    return column.iso and all(len(text) == 10 for text in column.examples)


def counted(column: Column) -> dict[str, Any] | None:
    """A number as a time: since 1970 by its size, else steps from a start that nobody told."""
    low, high = column.low or 0.0, column.high or 0.0
    for epoch, least, most in _EPOCHS:
        if least <= low and high <= most:
            return {"epoch": epoch}
    if low < 0 or high >= 1e9:
        return None
    name = plain(column.name)
    unit = "day" if "day" in name else "hour" if "hour" in name or (column.whole and high < 20_000) else "second"
    return {"unit": unit, "start": START}


def _number(one: Field, column: Column) -> dict[str, Any]:
    """How its numbers are written, where that is not as ours are."""
    options: dict[str, Any] = {}
    decimal, thousands = column.marks
    if decimal != ".":
        options["decimal"] = decimal
    if thousands:
        options["thousands"] = thousands

    if one.kind is Kind.MONEY and column.whole and _CENTS.fullmatch(plain(column.name)):
        options["minor_units"] = True
    elif one.kind is Kind.MONEY and column.precise:
        options["round"] = True
    if column.negative and one.minimum == 0:
        options["negative"] = "turn" if column.negative > column.filled / 2 else "drop"
    return options


def _words(column: Column) -> dict[str, Any]:
    """The words of 1 and of 0, where there are two and not those that everybody knows; the rarer one is 1."""
    levels = list(column.levels)
    if len(levels) != 2 or {level.lower() for level in levels} <= KNOWN:
        return {}
    yes = next((level for level in levels if _YES_WORDS.fullmatch(level.lower())), levels[-1])
    return {"positive": [yes], "negative": [level for level in levels if level != yes]}


def plain(name: str) -> str:
    """`Betrag (EUR)`, `nameOrig`, `Txn #` → betrag_eur, name_orig, txn_no."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).replace("#", " no ")
    return re.sub(r"\W+", "_", spaced.lower()).strip("_")


def flow(source: Mapping[str, Any] | str) -> str:
    """A source as one line of YAML."""
    text = yaml.safe_dump(source, default_flow_style=True, allow_unicode=True, sort_keys=False, width=1000)
    return str(text).removesuffix("...\n").strip()
