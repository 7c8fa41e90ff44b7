"""Numbers as people write them, in SQL: decimal comma, marks between thousands, currency, brackets for what is owed."""

from __future__ import annotations

from typing import Final

from millrace.sql import literal

_CURRENCY: Final = r"[\p{Sc}\s\x{00A0}\x{202F}]|^[A-Z]{3}|[A-Z]{3}$|^kr\.?|kr\.?$|zł$|Kč$|^R\$|^Rs\.?"
"""Signs and codes of money, and blanks, beside a number; what is left must be a number alone."""


def numeral(source: str, decimal: str, thousands: str) -> str:
    """SQL: a text as a number that a cast reads, or null where it is not written with these marks.

    A mark between thousands must have groups of two or three digits behind it, so that 12.50 is no 1250.
    """
    text = f"regexp_replace({source}, '{_CURRENCY}', '', 'g')"
    if thousands == " ":
        thousands = ""  # blanks are gone by now
    text = f"regexp_replace({text}, '^\\((.*)\\)$', '-\\1')"  # (12.50) is owed
    text = f"regexp_replace({text}, '^([^-]+)-$', '-\\1')"  # and so is 12.50-
    mark, point = _escaped(thousands), _escaped(decimal)

    whole = rf"[0-9]{{1,3}}({mark}[0-9]{{2,3}})*{mark}[0-9]{{3}}|[0-9]+" if thousands else "[0-9]+"
    form = rf"[+-]?({whole})?({point}[0-9]*)?([eE][+-]?[0-9]+)?"
    bare = text if not thousands else f"replace({text}, {literal(thousands)}, '')"
    bare = bare if decimal == "." else f"replace({bare}, {literal(decimal)}, '.')"
    return f"CASE WHEN regexp_full_match({text}, {literal(form)}) THEN {bare} END"


def _escaped(mark: str) -> str:
    return f"\\{mark}" if mark == "." else mark
