"""Spreadsheets (.xlsx, .xls, .xlsb, .ods) as delimited text: one sheet, its first row the header."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import IO, Any

from millrace.errors import ConfigError, InvalidInput
from millrace.reading.document import ReadOptions
from millrace.reading.spool import Spool, delimited


def sheet_text(opened: Callable[[], IO[bytes]], name: str, read: ReadOptions) -> Spool:
    """A sheet's rows; raises InvalidInput for a sheet that is not there, or a workbook that cannot be read."""
    try:
        from python_calamine import CalamineError, load_workbook  # spreadsheets alone need it
    except ImportError as error:
        raise ConfigError(f"{name} is a spreadsheet; reading one needs python-calamine: {error}") from error

    with opened() as stream:
        data = stream.read()
    try:
        workbook = load_workbook(io.BytesIO(data))
        sheets = workbook.sheet_names
        wanted = read.sheet or sheets[0]
        if wanted not in sheets:
            raise InvalidInput(f"{name} has no sheet {wanted!r}; it has {sheets}. Name one with read: {{sheet: …}}.")
        rows = workbook.get_sheet_by_name(wanted).to_python(skip_empty_area=True)
    except CalamineError as error:
        raise InvalidInput(f"{name} cannot be read as a spreadsheet: {error}. Export it as CSV.") from error
    return delimited(_filled(rows), read.decimal)


def _filled(rows: list[list[Any]]) -> Iterator[list[Any]]:
    """Rows that hold something."""
    return (row for row in rows if any(value not in ("", None) for value in row))
