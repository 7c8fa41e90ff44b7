"""How delimited text is delimited and quoted, by its header and its first lines."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from millrace.reading.columns import matched
from millrace.reading.document import ColumnsDocument
from millrace.workload import Schema

DELIMITERS: Final = (",", ";", "\t", "|")
_RARE: Final = ("^", "~", ":", "#", "\x01", "\x1f", " ")


@dataclass(frozen=True, slots=True)
class Dialect:
    """What stands between fields, around them, and before a quote inside."""

    delimiter: str
    quote: str = '"'
    escape: str = ""
    """Empty: a quote inside is doubled."""


def dialect_of(header: str, lines: bytes, schema: Schema, document: ColumnsDocument, named: str = "") -> Dialect:
    """As the document or the file's own `sep=` says; else the delimiter that makes most of the header's fields mean
    something; else, where none does, what DuckDB's sniffer finds in the lines."""
    read = document.read
    quote = read.quote or ('"' if '"' in header or b"'" not in lines else _quote(header, lines))
    escape = "\\" if quote.encode() in lines and b"\\" + quote.encode() in lines else ""
    if read.delimiter or named:
        return Dialect(read.delimiter or named, quote, escape)

    def means(delimiter: str) -> int:
        return matched(_names(header, delimiter, quote), schema, document)

    best = max(DELIMITERS, key=lambda one: (means(one), len(_names(header, one, quote))))
    if means(best) < 2:
        best = _consistent(header, lines, quote) or _sniffed(header, lines) or best
    return Dialect(best, quote, escape)


def fields_of(header: str, dialect: Dialect) -> list[str]:
    """The fields of a header line as they are written."""
    return next(csv.reader([header], delimiter=dialect.delimiter, quotechar=dialect.quote), [])


def _names(header: str, delimiter: str, quote: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([header], delimiter=delimiter, quotechar=quote), [])]


def _quote(header: str, lines: bytes) -> str:
    """A single quote where it stands at both ends of fields."""
    text = header + "\n" + lines[:65536].decode(errors="replace")
    at_ends = sum(f"{one}'" in text and f"'{one}" in text for one in (",", ";", "\t", "|"))
    return "'" if at_ends and (header.startswith("'") or "\n'" in text) else '"'


def _consistent(header: str, lines: bytes, quote: str) -> str:
    """The delimiter that cuts the header and nearly all lines into the same number of fields, two or more."""
    text = [header, *lines.decode(errors="replace").splitlines()[:200]]
    if len(text) > 2:
        text = text[:-1]  # the last may be cut
    found: list[tuple[float, int, str]] = []
    for delimiter in (*DELIMITERS, *_RARE):
        widths = Counter(len(row) for row in csv.reader(text, delimiter=delimiter, quotechar=quote) if row)
        fields = len(_names(header, delimiter, quote))
        if fields > 1:
            found.append((round(widths[fields] / max(sum(widths.values()), 1), 1), fields, delimiter))
    share, _, delimiter = max(found, default=(0.0, 0, ""))
    return delimiter if share >= 0.9 else ""


def _sniffed(header: str, lines: bytes) -> str:
    import duckdb  # only files that nothing simpler explains

    with tempfile.NamedTemporaryFile("wb", suffix=".csv") as aside:
        Path(aside.name).write_bytes(header.encode() + b"\n" + lines)
        try:
            with duckdb.connect() as connection:
                found = connection.execute("SELECT Delimiter FROM sniff_csv(?)", [aside.name]).fetchone()
        except duckdb.Error:
            return ""
    return str(found[0]) if found and found[0] and len(str(found[0])) == 1 else ""
